"""What a run tells whoever watches it: a protocol, and a reporter that says nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

__all__ = ["Reporter", "SilentReporter"]


class Reporter(Protocol):
    """Watches a run. A run calls it from one thread, in the order of events."""

    def stage(self, name: str, total: int | None, unit: str) -> None:
        """A stage begins: so many units of work, or None where nobody knows."""
        ...

    def advance(self, done: int, metrics: Mapping[str, float]) -> None:
        """So many units of the stage are done in all; these are the newest metrics."""
        ...

    def note(self, text: str) -> None:
        """Something worth a line happened."""
        ...

    def close(self) -> None:
        """The run is over."""
        ...


class SilentReporter:
    """A reporter for code that nobody watches."""

    def stage(self, name: str, total: int | None, unit: str) -> None:
        """Say nothing."""

    def advance(self, done: int, metrics: Mapping[str, float]) -> None:
        """Say nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""

    def close(self) -> None:
        """Say nothing."""
