"""A run's progress as a view that is redrawn in place: stages with their bars, and the newest metrics."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress import Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from llmgym.cli.metrics import percent, shown_metrics, sparkline

__all__ = ["LiveReporter"]

MIN_BAR_WIDTH, MAX_BAR_WIDTH = 5, 30
TEXT_WIDTH = 56
"""Columns that are left to what stands around a bar."""
MAX_SUCCESSES = 60
"""How many updates the success curve looks back."""


class LiveReporter:
    """Draws a run on a terminal while it goes on.

    Args:
        console: of the terminal; what is printed past it must be kept away while the view is up.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._metrics: Mapping[str, float] = {}
        self._successes: deque[float] = deque(maxlen=MAX_SUCCESSES)
        self._task: TaskID | None = None
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/green]"),
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            _StageStatus(console),
            console=console,
        )
        self._live = Live(
            console=console,
            get_renderable=self._render,
            refresh_per_second=8,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()

    def stage(self, name: str, total: int | None, unit: str) -> None:
        """Tick off the stage before, and begin a bar."""
        self._finish_stage()
        self._metrics = {}
        self._successes.clear()
        self._task = self._progress.add_task(name, total=total, unit=unit, outcome="")

    def advance(self, done: int, metrics: Mapping[str, float]) -> None:
        """Move the bar, and show the metrics."""
        self._metrics = metrics
        if "update" in metrics and "success" in metrics:
            self._successes.append(metrics["success"])
        if self._task is not None:
            self._progress.update(self._task, completed=done)

    def note(self, text: str) -> None:
        """Print a line above the view."""
        self._console.print(text, markup=False)

    def close(self) -> None:
        """Leave the view as it is last."""
        if not self._live.is_started:
            return
        if self._task is not None and self._progress.tasks[self._task].finished:
            self._finish_stage()
        self._metrics = {}
        self._live.stop()

    def _finish_stage(self) -> None:
        """Mark the stage as done, with its outcome beside it."""
        if self._task is None:
            return
        task = self._progress.tasks[self._task]
        outcome = f"success {percent(self._metrics['success'])}" if "success" in self._metrics else ""
        total = task.completed if task.completed else 1
        self._progress.update(self._task, total=total, completed=total, outcome=outcome)
        self._task = None

    def _render(self) -> Group:
        shown = shown_metrics(self._metrics)
        if not shown:
            return Group(self._progress)
        pairs_per_row = max(1, min(3, self._console.width // 26))
        table = Table.grid(padding=(0, 1))
        for _ in range(pairs_per_row):
            table.add_column(style="dim", no_wrap=True, min_width=12)
            table.add_column(justify="right", no_wrap=True, min_width=8)
        for first in range(0, len(shown), pairs_per_row):
            table.add_row(*(cell for pair in shown[first : first + pairs_per_row] for cell in pair))
        parts: list[Progress | Padding] = [self._progress, Padding(table, (1, 0, 0, 2))]
        if len(self._successes) > 1:
            curve = Text.assemble(("success ", "dim"), (sparkline(self._successes, self._console.width - 12), "green"))
            parts.append(Padding(curve, (0, 0, 0, 2)))
        return Group(*parts)


class _StageStatus(ProgressColumn):
    """A stage's bar, how far it is and how long it will take; once it is done, how long it took and what came out.

    Args:
        console: what the view is drawn on; where it is narrow, there is no bar.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(table_column=Column(no_wrap=True))
        self._console = console

    def render(self, task: Task) -> RenderableType:
        """Draw."""
        if task.finished:
            outcome = task.fields["outcome"]
            return Text(_duration(task.finished_time or 0) + (f", {outcome}" if outcome else ""), "dim")
        if task.total is None:
            status = _duration(task.elapsed or 0)
        else:
            left = f", {_duration(task.time_remaining)} left" if task.time_remaining is not None else ""
            status = f"{task.completed:.0f}/{task.total:.0f} {task.fields['unit']}{left}"
        width = min(self._console.width - TEXT_WIDTH, MAX_BAR_WIDTH)
        if width < MIN_BAR_WIDTH:
            return Text(status)
        bar = ProgressBar(task.total, task.completed, width, pulse=task.total is None, animation_time=task.get_time())
        row = Table.grid(padding=(0, 1))
        row.add_row(bar, Text(status))
        return row


def _duration(seconds: float) -> str:
    """Write seconds as people do.

    >>> _duration(75)
    '1:15 min'
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole // 60 % 60:02d} h"
