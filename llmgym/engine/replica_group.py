"""A group of replicas: kept alive, and kept to one policy. Knows nothing of what they are asked."""

from __future__ import annotations

import atexit
import logging
import weakref
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from typing import Any

from llmgym.engine.replica import Replica, end_replicas, replica_places
from llmgym.engine.replica_policy import Call, PolicyFiles
from llmgym.engine.replica_process import Answered, Called, Failed, Ready, ReplicaStart, Returned
from llmgym.engine.settings import EngineSettings
from llmgym.errors import EngineError, LLMGymError

__all__ = ["Died", "Event", "ReplicaGroup"]

MAX_DEATHS = 3
"""Deaths in a row, without an answer between them, after which a replica is given up."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Died:
    """A replica is gone, and with it whatever it was asked."""


Event = Answered | Failed | Died


@dataclass(slots=True)
class _Telling:
    """A call that all replicas get: who has not replied yet, and what came of it.

    Attributes:
        number: of the call.
        waiting: places of those that have not replied.
        values: what it returned.
        refusals: what it raised, by place.
    """

    number: int
    waiting: set[int]
    values: list[Any] = field(default_factory=list)
    refusals: dict[int, LLMGymError] = field(default_factory=dict)


class ReplicaGroup:
    """Replicas by their places, 0 to N - 1; one that dies is started anew in its place.

    Attributes:
        max_context_tokens: of their model.
        num_restarts: how many died and were started anew.
    """

    def __init__(self, model: str, settings: EngineSettings) -> None:
        """Start all replicas, and wait until they are ready.

        Raises:
            EngineError: one does not start, or there are too few GPUs.
        """
        self.max_context_tokens = 0
        self.num_restarts = 0
        self._places = replica_places(settings.replicas, settings.tensor_parallel_size)
        self._starts = [
            # Of one seed, all would draw the same answers to asks without a seed of their own.
            ReplicaStart(model, replace(settings, replicas=1, seed=settings.seed + index), place.cores)
            for index, place in enumerate(self._places)
        ]
        self._num_calls = 0
        self._telling: _Telling | None = None
        self._events: list[tuple[int, Event]] = []
        self._num_deaths = [0] * settings.replicas
        self._lost: EngineError | None = None
        self._replicas: list[Replica] = []
        self._files = [PolicyFiles()]
        # Whoever forgets to close the group, or dies of an exception, leaves neither process nor file behind; at exit
        # this comes before multiprocessing waits for processes that nobody has told to end.
        self._end = weakref.finalize(self, _end, self._replicas, self._files)
        atexit.register(self._end)
        try:
            for place in range(settings.replicas):
                self._replicas.append(self._start(place))
            while not all(replica.is_ready for replica in self._replicas):
                self._hear(is_first_start=True)
        except BaseException:
            self.close()
            raise

    def ready(self) -> list[int]:
        """Return the places of those that can be asked now."""
        return [place for place, replica in enumerate(self._replicas) if replica.is_ready]

    def pids(self) -> list[int | None]:
        """Return their process ids, by place."""
        return [replica.pid for replica in self._replicas]

    def send(self, place: int, message: Any) -> None:
        """Send a message to one of them."""
        self._replicas[place].send(message)

    def listen(self) -> list[tuple[int, Event]]:
        """Wait until something happened that concerns what they were asked, or one got ready; return the former.

        Raises:
            EngineError: one of them cannot be kept alive.
        """
        if not self._events:
            self._hear()
        return self.take_events()

    def take_events(self) -> list[tuple[int, Event]]:
        """Return what has happened, each with its place, and do not wait."""
        events, self._events = self._events, []
        return events

    def serve(self, files: PolicyFiles, call: Call) -> None:
        """Have all of them serve other files from now on.

        Args:
            files: from which one that dies is started anew.
            call: what tells the others.

        Raises:
            EngineError: they refuse; what was served before is served on.
        """
        (before,) = self._files
        self._files[:] = [files]
        try:
            self.tell(call)
        except BaseException:
            self._files[:] = [before]
            files.remove(but=before)
            raise
        before.remove(but=files)

    @property
    def files(self) -> PolicyFiles:
        """What they serve."""
        (files,) = self._files
        return files

    def tell(self, call: Call) -> list[Any]:
        """Call a method of every replica's backend; return what it returned, by all that lived to tell.

        Raises:
            EngineError: all of them refuse.
        """
        self._wait_for_one()
        telling = self._telling = _Telling(self._next_number(), set(self.ready()))
        for place in telling.waiting:
            self.send(place, Called(telling.number, *call))
        try:
            while telling.waiting:
                self._hear()
        finally:
            self._telling = None
        if telling.refusals and not telling.values:
            raise next(iter(telling.refusals.values()))
        for place, error in telling.refusals.items():
            # The others have taken it: this one would answer for another policy.
            self._bury(place, f"refused what the others took: {error}")
        return telling.values

    def close(self) -> None:
        """End all of them; a second call does nothing."""
        atexit.unregister(self._end)
        self._end()

    def _start(self, place: int) -> Replica:
        return Replica(place, self._starts[place], self._places[place].environment)

    def _wait_for_one(self) -> None:
        """Wait until one of them can be asked."""
        while not self.ready():
            self._hear()

    def _hear(self, *, is_first_start: bool = False) -> None:
        """Wait until a replica says something, or dies, and take note."""
        if self._lost is not None:
            raise self._lost
        by_connection = {replica.connection: place for place, replica in enumerate(self._replicas)}
        for connection in wait(list(by_connection)):
            place = by_connection[connection]  # type: ignore[index]  # wait returns what it was given
            replica = self._replicas[place]
            try:
                message = replica.receive()
            except EOFError:
                if is_first_start:
                    raise EngineError(_first_death(place, replica.bury())) from None
                self._bury(place, replica.bury())
                continue
            self._take(place, message)

    def _take(self, place: int, message: Ready | Returned | Answered | Failed) -> None:
        """Take note of a message."""
        if isinstance(message, Ready):
            self.max_context_tokens = message.max_context_tokens
            self._replicas[place].is_ready = True
            # It takes messages in order: whatever it is asked from here on, it answers with these.
            for call in self.files.calls():
                self.send(place, Called(self._next_number(), *call))
        elif isinstance(message, Returned):
            self._take_reply(place, message)
        else:
            if isinstance(message, Answered):
                self._num_deaths[place] = 0
            self._events.append((place, message))

    def _take_reply(self, place: int, reply: Returned) -> None:
        """Take note of what came of a call; one that refuses what it is to serve on its start is started again."""
        telling = self._telling
        if telling is not None and reply.number == telling.number:
            telling.waiting.discard(place)
            if reply.error is None:
                telling.values.append(reply.value)
            else:
                telling.refusals[place] = reply.error
        elif reply.error is not None:
            self._bury(place, f"refused the policy that is served: {reply.error}")

    def _bury(self, place: int, how: str) -> None:
        """Start a replica anew, and say so.

        Raises:
            EngineError: it has died too often.
        """
        end_replicas([self._replicas[place]], is_orderly=False)
        self._num_deaths[place] += 1
        self._events.append((place, Died()))
        if self._telling is not None:
            self._telling.waiting.discard(place)
        if self._num_deaths[place] == MAX_DEATHS:
            self._lost = EngineError(
                f"Replica {place} of {len(self._replicas)} died {MAX_DEATHS} times in a row without an answer between, "
                f"and is given up. Last, it {how} Load another engine; look at this machine's memory first."
            )
            raise self._lost
        _logger.warning("Replica %d of %d %s It is started anew.", place, len(self._replicas), how)
        self.num_restarts += 1
        self._replicas[place] = self._start(place)

    def _next_number(self) -> int:
        self._num_calls += 1
        return self._num_calls


def _end(replicas: list[Replica], files: list[PolicyFiles]) -> None:
    """End what a group holds, without holding the group."""
    end_replicas(replicas)
    for one in files:
        one.remove()


def _first_death(place: int, how: str) -> str:
    return (
        f"Expected replica {place} to start, but it {how} If nothing says why: a script that starts replicas must do "
        'so under if __name__ == "__main__":, and each of them needs the memory of an engine.'
    )
