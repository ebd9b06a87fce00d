"""The processes that run a script side by side, where torchrun started several: they call the models together."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch

from llmgym.compat.lamorel.calls import Call
from llmgym.errors import ConfigError, HostError, LLMGymError

__all__ = ["RlGroup", "join_group"]


class RlGroup:
    """The processes that run the script.

    Attributes:
        rank: of this process; the first serves the models.
        size: how many there are.
        group: of torch.distributed; None where there is one process.
        is_closed: whether the group has ended.
    """

    def __init__(self, rank: int, size: int, group: Any, *, is_owner: bool = False) -> None:
        """Know the group; is_owner where torch.distributed was started for it, and ends with it."""
        self.rank = rank
        self.size = size
        self.group = group
        self.is_closed = False
        self._is_owner = is_owner
        if is_owner:
            # A script may end without closing its Caller: connections that are still open then abort it. The others
            # are not waited for: after an error here, they may never come.
            atexit.register(self.leave, waits=False)

    def exchange(self, call: Call, answer: Callable[[list[Call]], list[Any]]) -> Any:
        """Bring the calls of all processes to the first, have them answered there, and return this one's answer.

        Raises:
            LLMGymError: what the calls were answered with, in every process.
        """
        if self.size == 1:
            return answer([call])[0]
        if self.is_closed:
            raise HostError("The models of this Caller are closed. Make a new one.")
        calls: list[Any] | None = [None] * self.size if self.rank == 0 else None
        torch.distributed.gather_object(call, calls, dst=0, group=self.group)
        answers: list[Any] | None = None
        if calls is not None:
            try:
                answers = answer(calls)
            except LLMGymError as error:
                answers = [error] * self.size
            except Exception as error:
                # The other processes wait for an answer: they must not wait for ever.
                answers = [HostError(f"The process that serves the models met an error: {error!r}")] * self.size
        received: list[Any] = [None]
        torch.distributed.scatter_object_list(received, answers, src=0, group=self.group)
        if isinstance(received[0], LLMGymError):
            raise received[0]
        return received[0]

    def leave(self, *, waits: bool = True) -> None:
        """End the group, once all processes are here if it waits for them; a second call does nothing."""
        if self.size == 1 or self.is_closed:
            return
        self.is_closed = True
        if waits:
            torch.distributed.barrier(group=self.group)
        if self._is_owner:
            torch.distributed.destroy_process_group()


def join_group(num_processes: int, timeout_seconds: float) -> RlGroup:
    """Join the other processes that run the script.

    A launcher of Lamorel's kind starts processes for the models too: those end here, without an error.

    Raises:
        ConfigError: fewer processes were started than n_rl_processes says.
    """
    if num_processes == 1:
        return RlGroup(0, 1, None)
    rank, started = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if started < num_processes:
        raise ConfigError(
            f"Expected n_rl_processes: {num_processes} processes that run the script, found {started}. Start it with "
            f"torchrun --nproc-per-node {num_processes} SCRIPT, or set n_rl_processes: 1 and step several environments."
        )
    timeout = timedelta(seconds=timeout_seconds)
    is_owner = not torch.distributed.is_initialized()
    if is_owner:
        torch.distributed.init_process_group("gloo", timeout=timeout)
    group = torch.distributed.new_group(list(range(num_processes)), backend="gloo", timeout=timeout)
    if rank >= num_processes:
        sys.exit(0)
    return RlGroup(rank, num_processes, group, is_owner=is_owner)
