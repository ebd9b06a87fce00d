"""The ranks as the driver sees them: started, asked, watched, ended. Knows no learner."""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from llmgym.errors import LearnerError
from llmgym.learner.ranks.launching import end_ranks, launch_ranks, read_death
from llmgym.learner.ranks.plan import WATCH_SECONDS, Plan
from llmgym.learner.ranks.worker import Call, Failure
from llmgym.learner.threads import default_num_threads
from llmgym.sync.folders import memory_folder

__all__ = ["RankPool"]

START_SECONDS = 600.0
PARTNER_SECONDS = 10.0
"""How long a rank that has met an error of llmgym's own waits for the others to meet it."""
REPORT_SECONDS = 15.0
"""How long elastic may take to end the others and tell of the death, once a rank is dead."""
_logger = logging.getLogger(__name__)


class RankPool:
    """Processes on this machine that compute together.

    Attributes:
        num_ranks: how many.
    """

    def __init__(
        self,
        num_ranks: int,
        *,
        device: str | None = None,
        num_threads: int | None = None,
        log_dir: Path | None = None,
        on_death: Callable[[], None] | None = None,
    ) -> None:
        """Start the processes, and wait until all have met.

        Args:
            num_ranks: how many, at least 1.
            device: "cpu", or "cuda": one a rank; "cuda" where there is any, by default.
            num_threads: of torch in each rank; None or 0 shares those of this process out.
            log_dir: where each rank's output goes; None for a temporary folder, which stays if a rank dies.
            on_death: called, in a thread of its own, if a rank dies while none is asked; `check` then tells why.

        Raises:
            LearnerError: there are too few devices, or a process died.
        """
        device = _checked_device(num_ranks, device)
        num_cores = default_num_threads()
        if device == "cpu" and num_ranks > num_cores:
            _logger.warning("%d learners share %d CPU cores: fewer are faster.", num_ranks, num_cores)
        self.num_ranks = num_ranks
        self._plan = Plan(
            folder=memory_folder(),
            log_dir=str(log_dir or tempfile.mkdtemp(prefix="llmgym-learners-")),
            num_ranks=num_ranks,
            device=device,
            num_threads=num_threads or max(1, num_cores // num_ranks),
            driver_pid=os.getpid(),
        )
        self._is_temporary = log_dir is None
        self._lines: list[Connection] = []
        self._num_asked = 0
        self._is_busy = False
        self._death: LearnerError | None = None
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
            server.bind(self._plan.address)
            server.listen(num_ranks)
            self._launcher = launch_ranks(self._plan)
            # Whoever forgets to close the pool, or dies of an exception, leaves no process behind.
            self._finalizer = weakref.finalize(
                self, end_ranks, self._launcher, self._lines, self._plan, is_orderly=False
            )
            try:
                self._lines += self._accept(server)
            except BaseException:
                self.close(is_orderly=False)
                raise
        if on_death is not None:
            watch = partial(_watch, weakref.ref(self), self._launcher, on_death)
            threading.Thread(target=watch, name="watch-ranks", daemon=True).start()

    @property
    def is_idle(self) -> bool:
        """Whether the processes are there, and none is asked anything."""
        return self._finalizer.alive and not self._is_busy

    def check(self) -> None:
        """Raise the error that tells how a rank died, if one did.

        Raises:
            LearnerError: it did; all are ended.
        """
        if self._death is not None:
            raise self._death
        if self._finalizer.alive and self._launcher.poll() is not None:
            raise self._died()

    def ask(self, call: Call, *, ranks: Sequence[int] | None = None) -> list[Any]:
        """Let ranks answer a call, all at once, and wait for all of them.

        Args:
            call: what to do; it is pickled.
            ranks: who is asked; all if None.

        Returns:
            what each returned, in the order of ranks.

        Raises:
            LearnerError: a rank died; then all are ended. Or the call cannot be pickled.
            LLMGymError: what a rank raised.
        """
        if not self._lines:
            raise LearnerError("Expected learner ranks to ask, but they were ended. Make a new group.")
        asked = list(range(self.num_ranks) if ranks is None else ranks)
        self._num_asked += 1
        message = pickle.dumps((self._num_asked, _pickled(call)))
        self._is_busy = True
        try:
            for rank in asked:
                self._lines[rank].send_bytes(message)
            answers = self._collect(asked)
        except (EOFError, OSError) as error:
            raise self._died() from error
        self._is_busy = False
        failures = [answer.error for answer in answers.values() if isinstance(answer, Failure)]
        if failures:
            raise failures[0]
        return [answers[rank] for rank in asked]

    def close(self, *, is_orderly: bool = True) -> None:
        """End the processes; a second call does nothing.

        Args:
            is_orderly: whether they are given time to end by themselves; not where an interrupt left them at work.
        """
        is_orderly = is_orderly and not self._is_busy
        if self._finalizer.detach() is not None:
            end_ranks(self._launcher, self._lines, self._plan, is_orderly=is_orderly)
            if self._is_temporary and self._launcher.returncode == 0:
                shutil.rmtree(self._plan.log_dir, ignore_errors=True)

    def _accept(self, server: socket.socket) -> list[Connection]:
        """Wait until every rank has called; return the lines to them in order."""
        server.settimeout(0.2)
        lines: dict[int, Connection] = {}
        deadline = time.monotonic() + START_SECONDS
        while len(lines) < self.num_ranks:
            try:
                caller, _ = server.accept()
            except TimeoutError:
                if self._launcher.poll() is not None or time.monotonic() > deadline:
                    raise self._died() from None
                continue
            line = Connection(caller.detach())
            lines[pickle.loads(line.recv_bytes())] = line
        return [lines[rank] for rank in range(self.num_ranks)]

    def _collect(self, asked: Sequence[int]) -> dict[int, Any]:
        """Wait for the answers to the last call; answers to one that was interrupted are dropped.

        An error of llmgym's own is met by all ranks. Should one meet it alone, the others wait for it in vain: they are
        given some time, and then ended.
        """
        answers: dict[int, Any] = {}
        deadline = float("inf")
        while len(answers) < len(asked) and time.monotonic() < deadline:
            waiting = {self._lines[rank]: rank for rank in asked if rank not in answers}
            ready = wait(list(waiting), timeout=1.0)
            if not ready and self._launcher.poll() is not None:
                raise EOFError
            for line in waiting:
                if line in ready:
                    number, answer = pickle.loads(line.recv_bytes())
                    if number == self._num_asked:
                        answers[waiting[line]] = answer
            if deadline == float("inf") and any(isinstance(answer, Failure) for answer in answers.values()):
                deadline = time.monotonic() + PARTNER_SECONDS
        if len(answers) < len(asked):
            self.close(is_orderly=False)
        return answers

    def _died(self) -> LearnerError:
        """End what is left, and return the error that tells of the death."""
        try:
            self._launcher.wait(timeout=REPORT_SECONDS)
        except subprocess.TimeoutExpired:
            self._launcher.kill()
            self._launcher.wait()
        self._death = read_death(self._launcher, self._plan)
        self.close(is_orderly=False)
        return self._death


def _checked_device(num_ranks: int, device: str | None) -> str:
    """Return the kind of device that ranks compute on."""
    import torch

    if num_ranks < 1:
        raise LearnerError(f"Expected at least 1 learner rank, got {num_ranks}. Ask for 1 or more.")
    num_gpus = torch.cuda.device_count()
    device = device or ("cuda" if num_gpus else "cpu")
    if device not in ("cpu", "cuda"):
        raise LearnerError(f"Expected ranks on cpu or cuda, got {device!r}. Each rank takes the GPU of its number.")
    if device == "cuda" and num_ranks > num_gpus:
        raise LearnerError(
            f"Expected a GPU for each of {num_ranks} learner ranks, found {num_gpus}. Ask for fewer, or for "
            "device='cpu'."
        )
    return device


def _watch(pool: weakref.ref[RankPool], launcher: subprocess.Popen[bytes], on_death: Callable[[], None]) -> None:
    """Call a function once the launcher has ended, unless it was ended or whoever asks will notice."""
    while launcher.poll() is None:
        time.sleep(WATCH_SECONDS)
    found = pool()
    if found is not None and found.is_idle:
        on_death()


def _pickled(call: Call) -> bytes:
    try:
        return pickle.dumps(call)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise LearnerError(
            "Expected what learners in processes of their own are made of to be picklable, but: "
            f"{error}. Define heads and algorithms at the top level of a module."
        ) from error
