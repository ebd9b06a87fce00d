"""Threads: give torch its own number of threads back while the learner works. Knows nothing of engines.

An engine in the same process may set torch to one thread for serving and then replace `torch.set_num_threads` by a
function that does nothing. The learner would run at half speed or less, in silence.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from llmgym.errors import LearnerError
from llmgym.learner.denormals import flushed_denormals

__all__ = ["at_work", "default_num_threads", "torch_threads"]


def default_num_threads() -> int:
    """Return how many threads this process may use: OMP_NUM_THREADS where it is set, else its CPUs.

    torch's own default counts the same, but only until an engine has changed it.
    """
    requested = os.environ.get("OMP_NUM_THREADS", "")
    if requested.isdigit() and int(requested) > 0:
        return int(requested)
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


@contextmanager
def torch_threads(num_threads: int | None) -> Iterator[None]:
    """Run a block with torch's intra-op threads set to a number, and set what was found back after it.

    Args:
        num_threads: how many; None leaves torch as it is.

    Raises:
        LearnerError: num_threads is below 1.
    """
    if num_threads is None:
        yield
        return
    if num_threads < 1:
        raise LearnerError(f"Expected num_threads of at least 1, got {num_threads}. Set it, or None to leave torch be.")
    found = torch.get_num_threads()
    if found == num_threads:
        yield
        return
    set_num_threads = _original_setter()
    set_num_threads(num_threads)
    try:
        yield
    finally:
        set_num_threads(found)


@contextmanager
def at_work(num_threads: int | None) -> Iterator[None]:
    """Run a block with a number of threads, and with denormals flushed to 0; set back what was found after it."""
    with torch_threads(num_threads), flushed_denormals():
        yield


def _original_setter() -> Callable[[int], None]:
    """Return torch's own set_num_threads: the attribute of torch may have been replaced, that of torch._C is not."""
    setter: Callable[[int], None] = getattr(torch._C, "set_num_threads", torch.set_num_threads)
    return setter
