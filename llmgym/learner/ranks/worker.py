"""A rank at work: answers what the driver asks until there is no more, or until the driver is gone.

Knows no learner: it holds whatever the driver's first call puts into its seat.
"""

from __future__ import annotations

import os
import pickle
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch

from llmgym.errors import LearnerError, LLMGymError
from llmgym.learner.ranks.plan import Plan, watch_parent
from llmgym.learner.ranks.rank import Rank

__all__ = ["Call", "Failure", "Seat", "run_rank"]

BLAME_SECONDS = 3.0
"""A rank whose error may come of another's death waits this long, so that elastic sees first who died first."""


@dataclass(slots=True)
class Seat:
    """What a rank has.

    Attributes:
        rank: which it is.
        device: its own.
        num_threads: of torch.
        held: what a call has left for the next.
    """

    rank: Rank
    device: str
    num_threads: int
    held: Any = None


Call = Callable[[Seat], Any]
"""What a rank is asked; it can be pickled."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An error in a rank, on its way to the driver."""

    error: LLMGymError


def run_rank(plan: Plan) -> None:
    """Meet the other ranks and the driver, and answer its calls.

    An error of llmgym's own is an answer: all ranks meet it, and none waits for another. Any other ends the rank.
    """
    watch_parent(os.getppid(), _vanish)
    rank = Rank(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    seat = Seat(rank, f"cuda:{rank.index}" if plan.device == "cuda" else plan.device, plan.num_threads)
    line = _call_driver(plan, rank)
    calls: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(line, calls), name="listen", daemon=True).start()
    _meet(plan, seat)
    try:
        while (message := calls.get()) != b"":
            line.send_bytes(pickle.dumps(_answer(message, seat)))
    except Exception:
        time.sleep(BLAME_SECONDS)
        raise
    torch.distributed.destroy_process_group()


def _call_driver(plan: Plan, rank: Rank) -> Connection:
    """Open the line to the driver, and tell who calls."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.connect(plan.address)
    line = Connection(client.detach())
    line.send_bytes(pickle.dumps(rank.index))
    return line


def _listen(line: Connection, calls: queue.SimpleQueue[bytes]) -> None:
    """Pass on what the driver sends, and end this process as soon as the line is dead, whatever it is doing."""
    message = b"-"
    while message:
        try:
            message = line.recv_bytes()
        except (EOFError, OSError):
            _vanish()
        calls.put(message)


def _meet(plan: Plan, seat: Seat) -> None:
    """Join the other ranks."""
    torch.set_num_threads(seat.num_threads)
    if plan.device == "cuda":
        torch.cuda.set_device(seat.rank.index)
    # All ranks are on this machine: no name of it has to resolve to an address.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    torch.distributed.init_process_group(
        plan.backend, init_method=f"file://{plan.store}", rank=seat.rank.index, world_size=seat.rank.count
    )


def _answer(message: bytes, seat: Seat) -> tuple[int, Any]:
    """Return the number of a call and its answer."""
    number, pickled = pickle.loads(message)
    try:
        call: Call = pickle.loads(pickled)
    except (AttributeError, ImportError) as error:
        return number, Failure(
            LearnerError(
                f"Expected what a learner is made of to load in its ranks, but: {error}. Define heads and algorithms "
                "at the top level of a module that can be imported."
            )
        )
    try:
        return number, call(seat)
    except LLMGymError as error:
        return number, Failure(error)


def _vanish() -> None:
    """End this process at once: no one is left to hear of it."""
    os._exit(1)
