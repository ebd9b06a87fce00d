"""Peak memory: what was held in between counts, what was held before does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from llmgym import memory
from llmgym.memory import PeakMemory

GIB = 2**30


def hold(num_bytes: int) -> None:
    """Hold memory for a moment, on the GPU where there is one."""
    if torch.cuda.is_available():
        torch.ones(num_bytes, dtype=torch.uint8, device="cuda")
    else:
        np.ones(num_bytes, np.uint8)


def test_what_is_held_in_between_counts() -> None:
    peak = PeakMemory()
    before = peak.gib
    hold(GIB // 4)
    assert 0.2 < peak.gib - before < 0.35


@pytest.mark.skipif(not torch.cuda.is_available() and not memory._count_anew(), reason="the system cannot count anew")
def test_what_was_held_before_does_not_count() -> None:
    first = PeakMemory()
    hold(GIB // 4)
    most = first.gib
    assert most - PeakMemory().gib > 0.2


def test_a_system_without_counters_tells_the_peak_of_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_CLEAR", tmp_path / "none" / "clear_refs")
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "none" / "status")
    assert memory._count_anew() is False
    assert 0.01 < memory._peak_resident_bytes() / GIB < 200
