"""The processes that serve one model, as their host sees them: started, asked all at once, watched, ended."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import tempfile
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from llmgym.errors import HostError
from llmgym.host.serving import Answer, Place, Placement, Request, Servable, Shard, answer
from llmgym.host.worker import Failure, WorkerSettings, run_worker

__all__ = ["LocalPool", "WorkerPool"]

START_TIMEOUT_SECONDS = 600.0
CLOSE_TIMEOUT_SECONDS = 10.0


class LocalPool:
    """A model served by this process."""

    size = 1
    keeps_graph = True

    def __init__(self, servable: Servable, placement: Placement) -> None:
        devices = placement.devices[0] if placement.devices else ("cpu",)
        self.served = servable.serve(Place(devices=devices))

    def ask(self, requests: Sequence[Request | None]) -> list[Answer]:
        """Answer the one request."""
        return [None if request is None else answer(self.served, request) for request in requests]

    def close(self) -> None:
        """Hold nothing: the model goes with the pool."""


@dataclass(frozen=True, slots=True)
class _Worker:
    """One process, and the line to it."""

    process: BaseProcess
    connection: Connection


class WorkerPool:
    """A model served by spawned processes; it takes neither port nor address.

    Attributes:
        size: how many processes.
        keeps_graph: False: an answer comes without its graph.
    """

    keeps_graph = False

    def __init__(self, name: str, servable: Servable, placement: Placement) -> None:
        """Start the processes, and wait until all have loaded the model.

        Args:
            name: of the model, for messages.
            servable: what they load; it is pickled.
            placement: how many, and where.

        Raises:
            HostError: the model cannot be pickled or loaded, or a process ended.
        """
        self.size = placement.num_workers
        self._name = name
        self._timeout_seconds = placement.timeout_seconds
        self._folder = tempfile.mkdtemp(prefix="llmgym-host-")
        self._workers: list[_Worker] = []
        pickled = _pickled(name, servable)
        # Whoever forgets to close the pool, or dies of an exception, leaves no process behind.
        self._finalizer = weakref.finalize(self, _end, self._workers, self._folder, is_orderly=False)
        try:
            for index in range(self.size):
                self._workers.append(self._spawn(index, placement))
            for worker in self._workers:
                worker.connection.send_bytes(pickled)
            self._collect(list(range(self.size)), START_TIMEOUT_SECONDS, is_joint=True)
        except BrokenPipeError as error:
            self.close(is_orderly=False)
            raise HostError(self._death(0)) from error
        except BaseException:
            self.close(is_orderly=False)
            raise

    def ask(self, requests: Sequence[Request | None]) -> list[Answer]:
        """Send each process its request, and wait for all answers.

        Args:
            requests: one a process; None leaves it idle.

        Raises:
            HostError: a process died, or took too long (then all are ended), or met an error.
            LLMGymError: what a process raised.
        """
        if not self._workers:
            raise HostError(f"The processes of the model {self._name!r} are closed. Make a new host.")
        asked = [index for index, request in enumerate(requests) if request is not None]
        for index in asked:
            try:
                self._workers[index].connection.send_bytes(pickle.dumps(requests[index]))
            except (BrokenPipeError, ConnectionResetError) as error:
                message = self._death(index)
                self.close(is_orderly=False)
                raise HostError(message) from error
        is_joint = any(isinstance(request, Shard) for request in requests)
        answers = self._collect(asked, self._timeout_seconds, is_joint=is_joint)
        return [answers.get(index) for index in range(self.size)]

    def close(self, *, is_orderly: bool = True) -> None:
        """End the processes; a second call does nothing.

        Args:
            is_orderly: whether they are given time to end by themselves.
        """
        if self._finalizer.detach() is not None:
            _end(self._workers, self._folder, is_orderly=is_orderly)

    def _spawn(self, index: int, placement: Placement) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        devices = placement.devices[index] if placement.devices else ("cpu",)
        firsts = [part[0] for part in placement.devices]
        settings = WorkerSettings(
            place=Place(devices, index, self.size, placement.find_unused_parameters),
            store=os.path.join(self._folder, "store"),
            backend="nccl" if len(set(firsts)) == self.size and "cpu" not in firsts and firsts else "gloo",
            num_threads=max(1, _num_cores() // self.size),
            timeout_seconds=placement.timeout_seconds,
        )
        process = context.Process(
            target=run_worker, args=(theirs, settings), daemon=True, name=f"llmgym-{self._name}-{index}"
        )
        process.start()
        # With our copy of its end closed, a process sees at once that its host is gone.
        theirs.close()
        return _Worker(process, ours)

    def _collect(self, asked: list[int], timeout_seconds: float, *, is_joint: bool) -> dict[int, Answer]:
        """Wait for the answers of some processes.

        Args:
            is_joint: whether they work on it together: one that fails would leave the others waiting for it.
        """
        waiting = dict.fromkeys(asked)
        answers: dict[int, Answer] = {}
        deadline = time.monotonic() + timeout_seconds
        while waiting:
            ready = set(
                wait(
                    [self._workers[index].connection for index in waiting],
                    timeout=max(0.0, deadline - time.monotonic()),
                )
            )
            if not ready:
                self.close(is_orderly=False)
                raise HostError(
                    f"Expected the processes of the model {self._name!r} to answer within {timeout_seconds:g} seconds, "
                    f"but {len(waiting)} of {self.size} did not. They were ended. Processes that update together must "
                    "take as many backward passes; or raise the timeout."
                )
            for index in [index for index in waiting if self._workers[index].connection in ready]:
                del waiting[index]
                try:
                    answers[index] = pickle.loads(self._workers[index].connection.recv_bytes())
                except (EOFError, ConnectionResetError) as error:
                    message = self._death(index)
                    self.close(is_orderly=False)
                    raise HostError(message) from error
                if isinstance(answers[index], Failure) and is_joint:
                    self.close(is_orderly=False)
                    raise answers[index].error
        failures = [found for found in answers.values() if isinstance(found, Failure)]
        if failures:
            raise failures[0].error
        return answers

    def _death(self, index: int) -> str:
        """Say that a process is gone."""
        process = self._workers[index].process
        process.join(timeout=5)
        return (
            f"Process {index} of {self.size} that served the model {self._name!r} ended with exit code "
            f"{process.exitcode}, and the others were ended too. Its own output says why: out of memory (-9) and a "
            'script whose calls do not stand under if __name__ == "__main__": are the usual causes.'
        )


def _pickled(name: str, servable: Servable) -> bytes:
    try:
        return pickle.dumps(servable)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise HostError(
            f"Expected the functions, initialiser and updater of the model {name!r} to be picklable, to send them to "
            f"its processes, but: {error}. Define them at the top level of a module, or serve the model in this "
            "process (num_workers=0)."
        ) from error


def _end(workers: list[_Worker], folder: str, *, is_orderly: bool) -> None:
    """End processes, with force where they do not end by themselves, and remove what they met through."""
    for worker in workers:
        if is_orderly:
            try:
                worker.connection.send_bytes(pickle.dumps(None))
            except OSError:
                continue
        else:
            worker.process.kill()
    deadline = time.monotonic() + CLOSE_TIMEOUT_SECONDS
    for worker in workers:
        worker.process.join(timeout=max(0.0, deadline - time.monotonic()))
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.connection.close()
    workers.clear()
    shutil.rmtree(folder, ignore_errors=True)


def _num_cores() -> int:
    """Return how many cores this process may use."""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdigit() and int(threads) > 0:
        return int(threads)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
