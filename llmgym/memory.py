"""Memory: how much was held at most since a moment. Knows nothing of what holds it."""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["PeakMemory"]

_CLEAR = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


class PeakMemory:
    """The most memory that was held since it was made, in GiB.

    With a GPU: what torch had allocated on this process's current device at once (`torch.cuda.max_memory_allocated`),
    without what its allocator keeps in reserve, what other processes hold, such as an engine's workers, and what does
    not go through torch.

    Without one: the most physical memory that this process, engine and libraries included, had at once (VmHWM). Where
    the system cannot count anew (it can on Linux, where /proc/self/clear_refs can be written), it is the most since the
    process began.
    """

    def __init__(self) -> None:
        import torch

        self._on_gpu = torch.cuda.is_available()
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats()
        else:
            _count_anew()

    @property
    def gib(self) -> float:
        """The peak until now."""
        if self._on_gpu:
            import torch

            return torch.cuda.max_memory_allocated() / 2**30
        return _peak_resident_bytes() / 2**30


def _count_anew() -> bool:
    """Set this process's peak of physical memory back to what it has now; tell whether the system can."""
    try:
        _CLEAR.write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _peak_resident_bytes() -> int:
    """Return this process's peak of physical memory."""
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
    except (OSError, StopIteration):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        # Linux counts it in KiB, macOS in bytes.
        return peak if sys.platform == "darwin" else peak * 1024
