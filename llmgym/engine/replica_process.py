"""A replica's own process: one vLLM backend, asked and told through a pipe until the pipe ends.

A thread reads the pipe at all times. So whoever sends never waits for a forward pass, and the end of the parent is
seen at once, however it ended.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from typing import Any

from llmgym.engine.asks import Answer, Ask, Backend
from llmgym.engine.settings import EngineSettings
from llmgym.errors import LLMGymError

__all__ = [
    "Answered",
    "Asked",
    "Called",
    "Cancelled",
    "Crashed",
    "Failed",
    "Ready",
    "ReplicaStart",
    "Returned",
    "serve_replica",
]

GRACE_SECONDS = 10.0
"""How long a replica whose parent is gone may take to end by itself."""


@dataclass(frozen=True, slots=True)
class ReplicaStart:
    """What a replica is started with.

    Attributes:
        model: a folder or a hub id.
        settings: of its engine.
        cores: on which it computes; empty for any.
    """

    model: str
    settings: EngineSettings
    cores: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """To a replica: answer these, each by its ticket."""

    asks: tuple[tuple[int, Ask], ...]


@dataclass(frozen=True, slots=True)
class Cancelled:
    """To a replica: nobody waits for these any more."""

    tickets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Called:
    """To a replica: call a method of the backend."""

    number: int
    method: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Ready:
    """From a replica: it has started."""

    max_context_tokens: int


@dataclass(frozen=True, slots=True)
class Answered:
    """From a replica: answers, each with its ticket."""

    answers: tuple[tuple[int, Answer], ...]


@dataclass(frozen=True, slots=True)
class Returned:
    """From a replica: what a call returned, or what it raised."""

    number: int
    value: Any = None
    error: LLMGymError | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """From a replica: it cannot answer some of what it was asked, and goes on."""

    tickets: tuple[int, ...]
    error: LLMGymError


@dataclass(frozen=True, slots=True)
class Crashed:
    """From a replica, its last word: it did not start, or met an error that is none of ours."""

    message: str


def serve_replica(connection: Connection, start: ReplicaStart) -> None:
    """Start vLLM, then answer until the pipe ends or None comes through it."""
    # Ctrl-C reaches all processes of a terminal: the parent alone decides what becomes of its replicas.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if start.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, start.cores)
    inbox: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_read, args=(connection, inbox), daemon=True).start()
    backend: Backend | None = None
    try:
        backend = _load(start)
        connection.send(Ready(backend.max_context_tokens))
        _Server(connection, inbox, backend).run()
    except BrokenPipeError:
        pass
    except LLMGymError as error:
        _say(connection, Crashed(str(error)))
    except Exception as error:
        _say(connection, Crashed(f"{error!r}\n{traceback.format_exc()}"))
    finally:
        if backend is not None:
            backend.close()


class _Server:
    """Passes on what is asked, and sends back what is answered."""

    def __init__(self, connection: Connection, inbox: SimpleQueue[Any], backend: Backend) -> None:
        self._connection = connection
        self._inbox = inbox
        self._backend = backend
        self._theirs: dict[int, int] = {}
        """The parent's ticket for each open one of the backend."""

    def run(self) -> None:
        while True:
            for message in self._messages():
                if message is None:
                    return
                self._handle(message)
            self._advance()

    def _messages(self) -> list[Any]:
        """Return all messages that are there; wait for one if there is nothing else to do."""
        messages = [] if self._theirs else [self._inbox.get()]
        while True:
            try:
                messages.append(self._inbox.get_nowait())
            except Empty:
                return messages

    def _handle(self, message: Asked | Cancelled | Called) -> None:
        if isinstance(message, Asked):
            for ticket, ask in message.asks:
                try:
                    self._theirs[self._backend.submit(ask)] = ticket
                except LLMGymError as error:
                    self._connection.send(Failed((ticket,), error))
        elif isinstance(message, Cancelled):
            unwanted = set(message.tickets)
            ours = [ticket for ticket, theirs in self._theirs.items() if theirs in unwanted]
            self._backend.cancel(ours)
            for ticket in ours:
                del self._theirs[ticket]
        else:
            try:
                value = getattr(self._backend, message.method)(*message.arguments)
                self._connection.send(Returned(message.number, value))
            except LLMGymError as error:
                self._connection.send(Returned(message.number, error=error))

    def _advance(self) -> None:
        """Compute for a while, and send what is done."""
        if not self._theirs:
            return
        try:
            done = self._backend.advance()
        except LLMGymError as error:
            self._backend.cancel(list(self._theirs))
            self._connection.send(Failed(tuple(self._theirs.values()), error))
            self._theirs.clear()
            return
        answers = tuple((self._theirs.pop(ticket), answer) for ticket, answer in done if ticket in self._theirs)
        if answers:
            self._connection.send(Answered(answers))


def _load(start: ReplicaStart) -> Backend:
    from llmgym.engine.vllm_backend import VLLMBackend

    return VLLMBackend(start.model, start.settings)


def _read(connection: Connection, inbox: SimpleQueue[Any]) -> None:
    """Pass on what comes through the pipe. Where the parent is gone, end, if need be in the middle of something."""
    while True:
        try:
            message = connection.recv()
        except (EOFError, OSError):
            inbox.put(None)
            time.sleep(GRACE_SECONDS)
            os._exit(1)
        inbox.put(message)
        if message is None:
            return


def _say(connection: Connection, message: Crashed) -> None:
    """Send a last word, if there is anybody left to hear it."""
    try:
        connection.send(message)
    except OSError:
        return
