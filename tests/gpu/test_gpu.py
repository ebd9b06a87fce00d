"""What only a GPU can show; the same checks as `llmgym doctor --gpu`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from llmgym.run.gpu_checks import GPU_CHECKS, run_check


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch sees")
@pytest.mark.parametrize("check", GPU_CHECKS, ids=lambda check: check.__name__)
def test_everything_that_needs_a_gpu_works(check: Callable[[], Any]) -> None:
    outcomes = list(run_check(check))
    assert outcomes
    assert [outcome for outcome in outcomes if not outcome.is_passed] == []
