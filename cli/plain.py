"""A run's progress as lines, for a log file or a pipe."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from llmgym.cli.metrics import shown_metrics

__all__ = ["PlainReporter"]

LINE_INTERVAL_SECONDS = 5.0


class PlainReporter:
    """Writes a line when a stage begins and ends, and at most one every few seconds between.

    Args:
        write: takes a line.
        clock: returns seconds.
    """

    def __init__(self, write: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._clock = write, clock
        self._stage, self._unit = "", ""
        self._total: int | None = None
        self._started = self._last_line = clock()
        self._done = 0
        self._metrics: Mapping[str, float] = {}
        self._is_told = True

    def stage(self, name: str, total: int | None, unit: str) -> None:
        """End the stage before, and begin another."""
        self._end_stage()
        self._stage, self._total, self._unit = name, total, unit
        self._started = self._last_line = self._clock()
        self._done, self._metrics, self._is_told = 0, {}, True
        self._write(f"{name}: started" + (f", {total} {unit}" if total else ""))

    def advance(self, done: int, metrics: Mapping[str, float]) -> None:
        """Tell how far the stage is, unless the last line is recent."""
        self._done, self._metrics, self._is_told = done, metrics, False
        if self._clock() - self._last_line >= LINE_INTERVAL_SECONDS:
            self._write_progress()

    def note(self, text: str) -> None:
        """Write a line."""
        self._write(text)

    def close(self) -> None:
        """End the last stage."""
        self._end_stage()
        self._stage = ""

    def _write_progress(self) -> None:
        self._last_line, self._is_told = self._clock(), True
        of_total = f"/{self._total}" if self._total else ""
        metrics = "".join(f", {label} {text}" for label, text in shown_metrics(self._metrics))
        self._write(f"{self._stage}: {self._done}{of_total} {self._unit}{metrics}")

    def _end_stage(self) -> None:
        if not self._stage:
            return
        if not self._is_told:
            self._write_progress()
        self._write(f"{self._stage}: ended after {self._clock() - self._started:.0f} s")
