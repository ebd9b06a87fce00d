"""A worker process: serves one copy of a model until it is told to end, or until its host is gone."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

from llmgym.errors import HostError, LLMGymError
from llmgym.host.serving import Place, Servable, answer

__all__ = ["Failure", "WorkerSettings", "run_worker"]


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What a worker is started with.

    Attributes:
        place: which of the model's processes it is.
        store: file through which the processes find each other; it does not exist yet.
        backend: of torch.distributed, "gloo" or "nccl".
        num_threads: of torch.
        timeout_seconds: longest wait for the other processes.
    """

    place: Place
    store: str
    backend: str
    num_threads: int
    timeout_seconds: float


@dataclass(frozen=True, slots=True)
class Failure:
    """An error in a worker, on its way to the host."""

    error: LLMGymError


def run_worker(connection: Connection, settings: WorkerSettings) -> None:
    """Load the model that comes first through the connection, then answer requests until there are no more."""
    # Ctrl-C reaches all processes of a terminal: the host alone decides what becomes of its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        served = _start(pickle.loads(connection.recv_bytes()), settings)
    except EOFError:
        return
    except Exception as error:
        connection.send_bytes(pickle.dumps(_failure(error)))
        return
    connection.send_bytes(pickle.dumps(None))
    while True:
        try:
            request = pickle.loads(connection.recv_bytes())
        except EOFError:
            break
        if request is None:
            break
        try:
            reply = pickle.dumps(_detached(answer(served, request)))
        except Exception as error:
            reply = pickle.dumps(_failure(error))
        connection.send_bytes(reply)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _start(servable: Servable, settings: WorkerSettings) -> Any:
    """Join the other processes, and load the model."""
    torch.set_num_threads(settings.num_threads)
    place = settings.place
    if place.num_workers > 1:
        # All processes are on this machine: no name of it has to resolve to an address.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
        torch.distributed.init_process_group(
            settings.backend,
            init_method=f"file://{settings.store}",
            rank=place.worker_index,
            world_size=place.num_workers,
            timeout=timedelta(seconds=settings.timeout_seconds),
        )
    return servable.serve(place)


def _failure(error: Exception) -> Failure:
    """Return an error in a form that can be sent: our own as they are, others with where they arose."""
    if isinstance(error, LLMGymError):
        return Failure(error)
    return Failure(HostError(f"A worker process met an error: {error!r}\n{traceback.format_exc()}"))


def _detached(reply: Any) -> Any:
    """Cut tensors off their graph, which cannot leave the process."""
    if isinstance(reply, Tensor):
        return reply.detach().cpu()
    if isinstance(reply, dict):
        return {key: _detached(value) for key, value in reply.items()}
    return [_detached(value) for value in reply] if isinstance(reply, list) else reply
