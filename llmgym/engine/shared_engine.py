"""The shared engine: one thread acts with it while another swaps its weights, between two decisions and never in one.

Knows neither collector nor learner.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llmgym.types import Acting, Choice, Context, Engine, Parser

__all__ = ["EngineTakenError", "SharedEngine"]


class EngineTakenError(Exception):
    """The thread that acts has to end. Not an error of ours: nobody but that thread's own loop sees it."""


class SharedEngine:
    """What a collector needs of an engine, for a thread of its own; the engine can be held still by another thread.

    While somebody waits to hold the engine, no decision is begun, and those under way are made: an answer of many
    tokens is of one policy from its first to its last, and its turn's version says which.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.tokenizer: Any = engine.tokenizer
        self.max_context_tokens: int = engine.max_context_tokens
        self._changed = threading.Condition()
        self._is_wanted = False
        self._is_taken = False
        self._num_begun = 0
        self._under_way: dict[int, int] = {}
        """The engine's ticket of each decision, to ours."""
        self._held_back: list[tuple[int, Callable[[], int]]] = []
        """Decisions that begin once nobody wants to hold the engine: our ticket, and what begins it."""

    def act(
        self,
        contexts: Sequence[Context],
        candidates: Sequence[Sequence[Context]],
        acting: Acting,
        seed: int | Sequence[int] | None = None,
        *,
        parse: Parser | None = None,
        adapter: str = "policy",
    ) -> list[Choice]:
        """Take one action for every context; see `Engine.act`."""
        with self._changed:
            self._wait_until_free()
            return self._engine.act(contexts, candidates, acting, seed, parse=parse, adapter=adapter)

    def start(
        self,
        context: Context,
        candidates: Sequence[Context],
        acting: Acting,
        seed: int | None = None,
        *,
        parse: Parser | None = None,
        adapter: str = "policy",
    ) -> int:
        """Begin to take one action, or note it until the engine is free; see `Engine.start`."""

        def begin() -> int:
            return self._engine.start(context, candidates, acting, seed, parse=parse, adapter=adapter)

        with self._changed:
            self._check_not_taken()
            ticket = self._num_begun
            self._num_begun += 1
            if self._is_wanted:
                self._held_back.append((ticket, begin))
            else:
                self._under_way[begin()] = ticket
            return ticket

    def advance(self) -> list[tuple[int, Choice]]:
        """Compute for a while; see `Engine.advance`."""
        with self._changed:
            self._check_not_taken()
            if not self._under_way:
                self._wait_until_free()
            if not self._is_wanted:
                held_back, self._held_back = self._held_back, []
                for ticket, begin in held_back:
                    self._under_way[begin()] = ticket
            try:
                made = [(self._under_way.pop(ticket), choice) for ticket, choice in self._engine.advance()]
            except BaseException:
                # The engine has forgotten them, too.
                self._under_way.clear()
                self._held_back.clear()
                raise
            finally:
                self._changed.notify_all()
            return made

    @contextmanager
    def held(self) -> Iterator[Engine]:
        """Hold the engine still as long as the context lasts: no decision is under way, and none is begun.

        Raises:
            EngineTakenError: the thread that acts has ended within a decision.
        """
        # Said before the lock is taken, which a thread that acts without a pause might never let go of.
        self._is_wanted = True
        try:
            with self._changed:
                self._changed.wait_for(lambda: self._is_taken or not self._under_way)
                if self._under_way:
                    raise EngineTakenError
                yield self._engine
        finally:
            with self._changed:
                self._is_wanted = False
                self._changed.notify_all()

    def take_away(self) -> None:
        """Let whoever acts, or waits to, end with an `EngineTakenError` at its next call."""
        self._is_taken = True
        with self._changed:
            self._changed.notify_all()

    def _wait_until_free(self) -> None:
        self._changed.wait_for(lambda: self._is_taken or not self._is_wanted)
        self._check_not_taken()

    def _check_not_taken(self) -> None:
        if self._is_taken:
            raise EngineTakenError
