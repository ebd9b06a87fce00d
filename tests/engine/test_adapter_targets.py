"""An adapter on each kind of layer by itself is served as PEFT computes it; settings of sampling change nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmgym.engine import load_engine
from llmgym.learner import Learner, LoraSettings
from llmgym.types import Engine

CONTEXTS, CANDIDATES = [[5, 6, 7, 8], [9] * 33], [[[10, 11], [12], [13, 14, 15]]] * 2
LLAMA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
BruteForce = Callable[..., np.ndarray]


def served_and_expected(
    engine: Engine, model: Path, target: str, folder: Path, brute_force: BruteForce
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Put an adapter on one kind of layer and serve it; return its scores, PEFT's, and those without it."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    learner = Learner(str(model), lora=LoraSettings(rank=4, targets=(target,)), num_threads=1)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in learner.policy.model_parameters():
            assert f"{target}.lora_" in name
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
    learner.policy.write_adapter(str(folder))
    engine.load_adapter(str(folder), engine.version + 1)
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), str(folder)).eval()
    expected = [
        [brute_force(adapted, context, answer).sum() for answer in answers]
        for context, answers in zip(CONTEXTS, CANDIDATES, strict=True)
    ]
    served, base = engine.score(CONTEXTS, CANDIDATES), engine.score(CONTEXTS, CANDIDATES, adapter="base")
    return np.array(list(served)), np.array(expected), np.array(list(base))


@pytest.mark.parametrize(
    ("kind", "target"),
    [*(("llama", target) for target in LLAMA_TARGETS), *(("gpt2", target) for target in ("c_attn", "c_proj", "c_fc"))],
)
def test_transformers_serves_an_adapter_on_each_kind_of_layer(
    kind: str, target: str, tiny_zoo: dict[str, Path], tmp_path: Path, brute_force: BruteForce
) -> None:
    with load_engine(str(tiny_zoo[kind]), "transformers") as engine:
        served, expected, base = served_and_expected(engine, tiny_zoo[kind], target, tmp_path, brute_force)
    np.testing.assert_allclose(served, expected, atol=1e-4)
    assert np.abs(served - base).max() > 0.01


@pytest.mark.parametrize("target", LLAMA_TARGETS)
def test_vllm_serves_an_adapter_on_each_kind_of_layer(
    target: str, adapter_engine: Engine, tiny_model: Path, tmp_path: Path, brute_force: BruteForce
) -> None:
    served, expected, base = served_and_expected(adapter_engine, tiny_model, target, tmp_path, brute_force)
    np.testing.assert_allclose(served, expected, atol=1e-4)
    assert np.abs(served - base).max() > 0.01


@pytest.mark.parametrize("backend", ["transformers", "vllm"])
def test_a_models_own_settings_of_sampling_change_no_answer(backend: str, tiny_model: Path, tmp_path: Path) -> None:
    """Nucleus and penalties would make what was drawn another distribution than the one that is recorded."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    file = folder / "generation_config.json"
    settings: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    own = {"do_sample": True, "temperature": 0.1, "top_p": 0.1, "top_k": 1, "repetition_penalty": 3.0}
    file.write_text(json.dumps({**settings, **own}))
    answers = []
    for model in (tiny_model, folder):
        with load_engine(str(model), backend) as engine:
            answers.append([one for several in engine.generate(CONTEXTS, 6, 1.0, n=4, seed=3) for one in several])
    plain, penalised = answers
    assert [one.token_ids for one in plain] == [one.token_ids for one in penalised]
    for one, other in zip(plain, penalised, strict=True):
        np.testing.assert_array_equal(one.logprobs, other.logprobs)
    assert len({one.token_ids for one in plain}) > 4, "and they differ from each other"
