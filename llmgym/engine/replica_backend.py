"""The replica backend: several vLLM backends, each in a process of its own, that answer as one.

An episode stays with the replica that holds it in its cache; what a replica that died has not answered is asked again.
Knows nothing of processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmgym.engine.asks import Answer, Ask, AskSample
from llmgym.engine.replica_group import Died, Event, ReplicaGroup
from llmgym.engine.replica_policy import Call, PolicyFiles
from llmgym.engine.replica_process import Answered, Asked, Cancelled, Failed
from llmgym.engine.replica_router import PrefixRouter, prefix_keys
from llmgym.engine.settings import EngineSettings
from llmgym.engine.tokenizer import load_tokenizer
from llmgym.errors import EngineError, LLMGymError
from llmgym.types import NamedTensors

__all__ = ["ReplicaBackend"]


@dataclass(slots=True)
class _Open:
    """An ask without an answer, and which replica has it; None if none has."""

    ask: Ask
    place: int | None = None


class ReplicaBackend:
    """A `Backend` of several processes.

    Attributes:
        group: the processes.
    """

    can_ask_paths = True

    def __init__(self, model: str, settings: EngineSettings) -> None:
        """Start all replicas, and wait until they are ready.

        Raises:
            EngineError: a replica does not start.
        """
        self.tokenizer: Any = load_tokenizer(model, reads_special_tokens=settings.reads_special_tokens)
        self.group = ReplicaGroup(model, settings)
        self.max_context_tokens = self.group.max_context_tokens
        self._router = PrefixRouter()
        self._num_open = [0] * settings.replicas
        self._num_tickets = 0
        self._open: dict[int, _Open] = {}
        self._unsent: list[int] = []
        self._done: list[tuple[int, Answer]] = []
        self._error: LLMGymError | None = None

    def num_recomputed_tokens(self, num_context_tokens: int) -> int:
        """Return 0, as each replica does; see `VLLMBackend.num_recomputed_tokens`."""
        return 0

    def submit(self, ask: Ask) -> int:
        """Take an ask; it is sent when the backend is advanced."""
        ticket = self._num_tickets
        self._num_tickets += 1
        self._open[ticket] = _Open(ask)
        self._unsent.append(ticket)
        return ticket

    def advance(self) -> list[tuple[int, Answer]]:
        """Send what was submitted, and wait until some of all that was sent is answered.

        Raises:
            EngineError: a replica cannot answer something, or cannot be kept alive.
        """
        while self._open and not self._done:
            self._send()
            self._note(self.group.listen())
            if self._error is not None:
                error, self._error = self._error, None
                raise error
        done, self._done = self._done, []
        return done

    def cancel(self, tickets: Sequence[int]) -> None:
        """Forget asks, here and where they are; see `Backend.cancel`."""
        unwanted: dict[int, list[int]] = {}
        for ticket in tickets:
            one = self._open.get(ticket)
            if one is not None and one.place is not None:
                unwanted.setdefault(one.place, []).append(ticket)
            self._close(ticket)
        for place, theirs in unwanted.items():
            self.group.send(place, Cancelled(tuple(theirs)))
        gone = set(tickets)
        self._done = [(ticket, answer) for ticket, answer in self._done if ticket not in gone]

    def load_adapter(self, path: str, name: str) -> None:
        """Serve a PEFT adapter under a name, in every replica.

        Raises:
            EngineError: they refuse it; the one before is served on.
        """
        try:
            files = self.group.files.with_adapter(path, name)
        except OSError as error:
            raise EngineError(f"vLLM refuses the adapter in {path}: {error}") from error
        self._serve(files, ("load_adapter", (path, name)))

    def drop_adapter(self, name: str) -> None:
        """Forget the adapter of a name, in every replica."""
        self._serve(self.group.files.without_adapter(name), ("drop_adapter", (name,)))

    def load_weights(self, named_tensors: NamedTensors) -> None:
        """Replace all weights in every replica; they travel through one file in memory."""
        files = self.group.files.with_weights(named_tensors)
        self._serve(files, ("load_weights_file", (files.weights_file,)))

    def sleep(self) -> None:
        """Have every replica free what it shares with the learner."""
        self._tell("sleep")

    def wake_up(self) -> None:
        """Have every replica take it back."""
        self._tell("wake_up")

    def find_non_finite(self, ask: Ask) -> str:
        """Have every replica compute an ask again; see `Backend.find_non_finite`."""
        return next(iter(self._tell("find_non_finite", ask)), "a replica that died while it was asked")

    def close(self) -> None:
        """End all replicas; a second call does nothing."""
        self._open.clear()
        self.group.close()

    def _tell(self, method: str, *arguments: Any) -> list[Any]:
        try:
            return self.group.tell((method, arguments))
        finally:
            self._note(self.group.take_events())

    def _serve(self, files: PolicyFiles, call: Call) -> None:
        try:
            self.group.serve(files, call)
        finally:
            self._note(self.group.take_events())

    def _send(self) -> None:
        """Send what is unsent to replicas that are ready: first the episodes that have one, then those without."""
        ready = self.group.ready()
        unsent = [ticket for ticket in self._unsent if ticket in self._open]
        if not ready or not unsent:
            return
        self._unsent = []
        outgoing: dict[int, list[tuple[int, Ask]]] = {place: [] for place in ready}
        for ticket, place in self._route(unsent, ready):
            one = self._open[ticket]
            one.place = place
            outgoing[place].append((ticket, one.ask))
        for place, asks in outgoing.items():
            if asks:
                self.group.send(place, Asked(tuple(asks)))

    def _route(self, tickets: Sequence[int], ready: Sequence[int]) -> list[tuple[int, int]]:
        """Return where each ask goes, in an order of sending.

        A context that is to be continued several times goes anywhere: its answers take longer than itself.
        """
        asks = {ticket: self._open[ticket].ask for ticket in tickets}
        keys = {id(ask.context_ids): prefix_keys(ask.context_ids) for ask in asks.values()}
        routes, newcomers = [], []
        for ticket, ask in asks.items():
            ask_keys = keys[id(ask.context_ids)]
            is_copy = isinstance(ask, AskSample) and self._router.knows(ask_keys)
            place = None if is_copy else self._router.follow(ask_keys)
            if place is None:
                newcomers.append(ticket)
            else:
                self._num_open[place] += 1
                routes.append((ticket, place))
        for ticket in newcomers:
            ask = asks[ticket]
            ask_keys = keys[id(ask.context_ids)]
            place = None if isinstance(ask, AskSample) else self._router.follow(ask_keys)
            if place is None:
                place = min(ready, key=lambda place: self._num_open[place])
                self._router.settle(ask_keys, place)
            self._num_open[place] += 1
            routes.append((ticket, place))
        return routes

    def _note(self, events: Sequence[tuple[int, Event]]) -> None:
        """Take note of what happened in the group."""
        for place, event in events:
            if isinstance(event, Answered):
                # One that was asked twice, as its replica died, is answered once: the first time closes it.
                self._done.extend((ticket, answer) for ticket, answer in event.answers if self._close(ticket))
            elif isinstance(event, Failed):
                if any(ticket in self._open for ticket in event.tickets):
                    self._error = event.error
            elif isinstance(event, Died):
                self._take_back(place)

    def _close(self, ticket: int) -> bool:
        """Forget an ask; return whether it was open."""
        one = self._open.pop(ticket, None)
        if one is not None and one.place is not None:
            self._num_open[one.place] -= 1
        return one is not None

    def _take_back(self, place: int) -> None:
        """Hold what a dead replica has not answered as unsent again."""
        self._router.forget(place)
        self._num_open[place] = 0
        for ticket, one in self._open.items():
            if one.place == place:
                one.place = None
                self._unsent.append(ticket)
