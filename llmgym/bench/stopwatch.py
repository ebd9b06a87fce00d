"""A stopwatch for shares: how the time of a piece of work divides among the functions it runs through."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from time import perf_counter
from types import SimpleNamespace
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
        self.num_calls: Counter[tuple[str, str]] = Counter()
        """How often a part was begun inside another: (outer, inner)."""
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

    def net_seconds(self) -> dict[str, float]:
        """Return the seconds of each part without what the stopwatch itself takes, which is measured on the spot."""
        outer_cost, inner_cost = _seam_costs()
        net = dict(self.seconds)
        for (outer, inner), number in self.num_calls.items():
            net[outer] -= number * outer_cost
            net[inner] -= number * inner_cost
        return net

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
        if self._open:
            self.num_calls[self._open[-1], name] += 1
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


def _seam_costs(num_calls: int = 20_000) -> tuple[float, float]:
    """Return what the stopwatch adds to a call, in seconds: to the part around it, and to its own."""
    empty = SimpleNamespace(call=lambda: None)
    started = perf_counter()
    for _ in range(num_calls):
        empty.call()
    bare = perf_counter() - started
    watch = Stopwatch()
    with watch.watching((empty, "call", "inner")), watch.part("outer"):
        for _ in range(num_calls):
            empty.call()
    return max(watch.seconds["outer"] - bare, 0.0) / num_calls, watch.seconds["inner"] / num_calls
