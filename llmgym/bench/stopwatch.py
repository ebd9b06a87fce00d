"""A stopwatch for shares: how the time of a piece of work divides among the functions it runs through."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from time import perf_counter
from typing import Any

__all__ = ["Stopwatch"]


class Stopwatch:
    """Divides time among named parts; while a part runs inside another, only the inner one counts.

    >>> watch = Stopwatch()
    >>> with watch.part("outer"):
    ...     with watch.part("inner"):
    ...         pass
    >>> sorted(watch.seconds)
    ['inner', 'outer']
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        """Seconds of each part."""
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the block to a part."""
        self._enter(name)
        try:
            yield
        finally:
            self._leave()

    @contextmanager
    def watching(self, *seams: tuple[Any, str, str]) -> Iterator[None]:
        """Count every call of some functions while the block lasts.

        Args:
            seams: (owner, attribute, part): an object or class, the name of its function, and what it counts to.
        """
        # An attribute of the owner's class, seen through the owner, must not stay behind as the owner's own.
        before = [(owner, name, owner.__dict__.get(name)) for owner, name, _ in seams]
        for owner, name, part in seams:
            setattr(owner, name, self._timed(getattr(owner, name), part))
        try:
            yield
        finally:
            for owner, name, own in before:
                if own is None:
                    delattr(owner, name)
                else:
                    setattr(owner, name, own)

    def _timed(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        @wraps(function)
        def timed(*arguments: Any, **named: Any) -> Any:
            self._enter(part)
            try:
                return function(*arguments, **named)
            finally:
                self._leave()

        return timed

    def _enter(self, name: str) -> None:
        self._count()
        self._open.append(name)

    def _leave(self) -> None:
        self._count()
        self._open.pop()

    def _count(self) -> None:
        """Give the time since the last call to the innermost part."""
        now = perf_counter()
        if self._open:
            self.seconds[self._open[-1]] = self.seconds.get(self._open[-1], 0.0) + now - self._since
        self._since = now
