"""A replica as its parent sees it: a process that is started, told, heard and ended."""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any

from llmgym.engine.parallel import changed_environment, core_shares, gpu_shares, visible_gpus
from llmgym.engine.replica_process import Crashed, ReplicaStart, serve_replica

__all__ = ["Replica", "ReplicaPlace", "end_replicas", "replica_places"]

CLOSE_SECONDS = 10.0
"""How long replicas may take to end by themselves."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReplicaPlace:
    """The part of this machine that is a replica's.

    Attributes:
        cores: on which it computes; empty for any.
        environment: variables that its libraries read while they are loaded.
    """

    cores: tuple[int, ...]
    environment: dict[str, str]


class Replica:
    """One process, and the pipe to it.

    Attributes:
        connection: to wait on.
        is_ready: whether it has started, and has been told what to serve.
    """

    def __init__(self, index: int, start: ReplicaStart, environment: dict[str, str]) -> None:
        """Start the process, and do not wait for it.

        Args:
            index: number of the replica, for its name.
            start: what it is started with; it is pickled.
            environment: see `ReplicaPlace`.
        """
        self.is_ready = False
        self._is_broken = False
        self._last_word = ""
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        # A daemon may not start workers of its own, which vLLM does to share a model among devices.
        self._process: BaseProcess = context.Process(
            target=serve_replica,
            args=(theirs, start),
            daemon=start.settings.tensor_parallel_size == 1,
            name=f"llmgym-replica-{index}",
        )
        with changed_environment(environment):
            self._process.start()
        # With our copy of its end closed, a replica sees at once that its parent is gone, and we that it is.
        theirs.close()

    @property
    def pid(self) -> int | None:
        """Process id."""
        return self._process.pid

    def send(self, message: Any) -> None:
        """Send a message. That the replica is dead is found out when it is heard next."""
        try:
            self.connection.send(message)
        except OSError:
            return
        except BaseException:
            self._break()
            raise

    def receive(self) -> Any:
        """Return its next message.

        Raises:
            EOFError: it is dead, and everything it said has been received.
        """
        if self._is_broken:
            raise EOFError("the pipe is broken")
        try:
            message = self.connection.recv()
        except OSError as error:
            raise EOFError(str(error)) from error
        except EOFError:
            raise
        except BaseException:
            self._break()
            raise
        if isinstance(message, Crashed):
            self._last_word = message.message
            raise EOFError(message.message)
        return message

    def bury(self) -> str:
        """End what is left of a dead replica; return how it died, in words."""
        self.join(CLOSE_SECONDS if self._last_word else 1.0)
        end_replicas([self], is_orderly=False)
        return f"met an error: {self._last_word}" if self._last_word else f"ended (exit code {self._process.exitcode})."

    def is_alive(self) -> bool:
        """Return whether the process runs."""
        return self._process.is_alive()

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()

    def join(self, timeout_seconds: float) -> None:
        """Wait for its end."""
        self._process.join(timeout_seconds)

    def _break(self) -> None:
        """Give up a pipe in which a message was left half way, by an interrupt, and whoever is at its other end."""
        self._is_broken = True
        self.kill()


def end_replicas(replicas: Iterable[Replica], *, is_orderly: bool = True) -> None:
    """End replicas, with force where they have not started yet or do not end by themselves.

    Args:
        is_orderly: whether they are given time.
    """
    replicas = list(replicas)
    for replica in replicas:
        if is_orderly and replica.is_ready:
            replica.send(None)
        else:
            replica.kill()
    deadline = time.monotonic() + CLOSE_SECONDS
    for replica in replicas:
        replica.join(max(0.0, deadline - time.monotonic()))
        if replica.is_alive():
            _logger.warning("A replica did not end by itself within %g seconds, and is killed.", CLOSE_SECONDS)
            replica.kill()
            replica.join(CLOSE_SECONDS)
        replica.connection.close()


def replica_places(num_replicas: int, tensor_parallel_size: int) -> list[ReplicaPlace]:
    """Deal this machine out: GPUs where there are any, else cores.

    Raises:
        EngineError: there are too few GPUs.
    """
    import torch

    if torch.cuda.is_available():
        shares = gpu_shares(num_replicas, tensor_parallel_size, visible_gpus())
        return [ReplicaPlace((), {"CUDA_VISIBLE_DEVICES": ",".join(share)}) for share in shares]
    shares_of_cores = core_shares(num_replicas)
    return [ReplicaPlace(cores, {"OMP_NUM_THREADS": str(_num_threads(cores))}) for cores in shares_of_cores]


def _num_threads(cores: tuple[int, ...]) -> int:
    """Return how many threads a replica computes with: one a core, or fewer where the user has said so."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return min(len(cores), int(wanted)) if wanted.isdigit() and int(wanted) > 0 else len(cores)
