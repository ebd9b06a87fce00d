"""bfloat16 beside a real vLLM engine: a learner that rounds is held to what rounding makes of the canary."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmgym.errors import SyncError
from llmgym.learner import Learner, LoraSettings
from llmgym.types import Engine


def test_vllm_in_float32_serves_an_adapter_that_is_learned_in_bfloat16(
    adapter_engine: Engine, tiny_model: Path
) -> None:
    learner = Learner(str(tiny_model), lora=LoraSettings(rank=4, dropout=0.1), precision="bf16")
    gap = learner.publish(adapter_engine, version=adapter_engine.version + 1)["canary_gap"]
    assert 1e-4 < gap < 0.25
    learner.canary_tolerance = gap / 2
    with pytest.raises(SyncError, match=r"where they compute in bfloat16, raise the canary tolerance"):
        learner.publish(adapter_engine)
    learner.close()
