"""Learning on weights of 4 bits: what is refused, what is saved, and that a real vLLM engine serves the same policy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmgym.algorithms import BehaviourCloning
from llmgym.engine import load_engine
from llmgym.errors import ConfigError, EngineError, LearnerError
from llmgym.learner import Learner, LoraSettings
from llmgym.nf4 import compute_exactly, is_nf4, nf4_options, write_dequantized
from llmgym.types import Batch, Engine, Turn

LORA = LoraSettings(rank=4, alpha=8.0)
TOLERANCE = 1e-4


def make_learner(folder: Path) -> Learner:
    learner = Learner(
        str(folder), lora=LORA, load_in_4bit=True, algorithm=BehaviourCloning(2, 8), learning_rate=1e-2, num_threads=1
    )
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for _, parameter in learner.policy.model_parameters():
            parameter.normal_(std=0.1)  # an adapter that starts as the identity would hide one that is not served
    return learner


def make_batch() -> Batch:
    rng = np.random.default_rng(0)
    turns = tuple(
        Turn(rng.integers(2, 300, size=9).astype(np.int32), ((5, 6), (7,)), turn % 2, -0.7, 0.0, False, False, 0)
        for turn in range(8)
    )
    zeros = np.zeros(8, np.float32)
    return Batch(turns, zeros, zeros, zeros)


@pytest.fixture(scope="module")
def source(tiny_zoo: dict[str, Path]) -> Path:
    return tiny_zoo["llama"]


@pytest.fixture(scope="module")
def serving_engine(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[tuple[Engine, Path]]:
    """A vLLM engine on the plain weights of the tiny model's 4 bits, and the folder that the learner loads."""
    folder = tmp_path_factory.mktemp("served")
    write_dequantized(str(tiny_model), folder)
    with load_engine(str(folder), max_context_tokens=256, max_lora_rank=8, kv_cache_gib=0.25) as engine:
        yield engine, tiny_model


def logits(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids])).logits[0]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_plain_weights_compute_what_the_4_bits_compute(
    tiny_zoo: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    packed = AutoModelForCausalLM.from_pretrained(tiny_zoo[kind], dtype=torch.float32, **nf4_options("cpu")).eval()
    compute_exactly(packed)
    write_dequantized(str(tiny_zoo[kind]), tmp_path)
    served = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    original = AutoModelForCausalLM.from_pretrained(tiny_zoo[kind]).eval()
    assert is_nf4(packed)
    assert not is_nf4(served)
    assert not hasattr(served.config, "quantization_config")
    ids = list(range(1, 40))
    assert float((logits(packed, ids) - logits(served, ids)).abs().max()) < 1e-5
    assert float((logits(packed, ids) - logits(original, ids)).abs().max()) > 1e-2, "4 bits do change the weights"
    assert torch.equal(logits(packed, ids), logits(packed, ids)), "no pass repacks them"
    assert AutoTokenizer.from_pretrained(tmp_path).encode("turn left") == [
        *AutoTokenizer.from_pretrained(tiny_zoo[kind]).encode("turn left")
    ]


def test_only_the_adapter_learns(source: Path) -> None:
    learner = make_learner(source)
    before = {name: value.clone() for name, value in learner.policy.causal_model.state_dict().items()}
    metrics = learner.update(make_batch())
    assert metrics["grad_norm"] > 0
    after = learner.policy.causal_model.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(before[name], value)}
    assert changed
    assert all("lora_" in name for name in changed)
    packed = sum(value.numel() for name, value in after.items() if value.dtype == torch.uint8 and "proj" in name)
    assert packed > 0


def test_a_checkpoint_goes_on_to_the_same_numbers(source: Path, tmp_path: Path) -> None:
    learner = make_learner(source)
    learner.update(make_batch())
    learner.save(tmp_path / "checkpoint")
    assert not list((tmp_path / "checkpoint" / "model").glob("*.safetensors")), "the base weights stay where they are"
    loaded = Learner.load(tmp_path / "checkpoint", num_threads=1)
    assert is_nf4(loaded.policy.causal_model)
    for one in (learner, loaded):
        one.update(make_batch())
    contexts, candidates = [[5, 6, 7]], [[(8, 9), (10,)]]
    np.testing.assert_array_equal(learner.score(contexts, candidates)[0], loaded.score(contexts, candidates)[0])


def test_vllm_serves_the_policy_that_learns_on_4_bits(serving_engine: tuple[Engine, Path]) -> None:
    engine, source = serving_engine
    learner = make_learner(source)
    contexts = [[5, 6, 7] * 11, [8] * 3, [9, 10] * 32]
    candidates = [[(8, 9), (10,), (8, 11, 12)]] * 3
    scores = []
    for _ in range(2):
        gap = learner.publish(engine)["canary_gap"]
        assert gap < TOLERANCE
        found, expected = engine.score(contexts, candidates), learner.score(contexts, candidates)
        np.testing.assert_allclose(np.stack(found), np.stack(expected), atol=TOLERANCE)
        scores.append(np.stack(found))
        learner.update(make_batch())
    assert np.abs(scores[0] - scores[1]).max() > 0.01, "the update changed the adapter, and the engine has it"
    learner.close()


def test_a_transformers_engine_of_4_bits_serves_it_too(source: Path) -> None:
    learner = make_learner(source)
    with load_engine(str(source), "transformers", load_in_4bit=True) as engine:
        assert learner.publish(engine)["canary_gap"] < TOLERANCE
        with pytest.raises(
            EngineError, match="Expected a model with plain weights to replace, but this one was loaded"
        ):
            engine.load_weights([], 2)
    learner.close()


def test_4_bits_without_an_adapter_are_refused(source: Path) -> None:
    with pytest.raises(LearnerError, match=r"Expected an adapter to learn over weights of 4 bits, .* got lora=None"):
        Learner(str(source), load_in_4bit=True)


def test_a_module_cannot_be_packed(source: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source)
    with pytest.raises(LearnerError, match="Expected a folder or hub id to load in 4 bits, got a module"):
        Learner(model, lora=LORA, load_in_4bit=True)


def test_vllm_takes_no_weights_of_4_bits(source: Path) -> None:
    with pytest.raises(EngineError, match="Expected plain weights for vLLM, found load_in_4bit=True"):
        load_engine(str(source), load_in_4bit=True)


def test_settings_of_4_bits_that_do_not_go_together_are_refused() -> None:
    from llmgym.config import RunConfig
    from llmgym.engine import EngineSettings
    from llmgym.learner.settings import LearnerSettings

    env, lora = "llmgym/BabyAI-GoToLocal-v0", LoraSettings(rank=4)
    with pytest.raises(ConfigError, match=r"Expected learner\.lora where learner\.load_in_4bit=true"):
        RunConfig(env, learner=LearnerSettings(load_in_4bit=True))
    engine = EngineSettings(load_in_4bit=True, max_lora_rank=8)
    with pytest.raises(ConfigError, match=r"Expected engine\.load_in_4bit only with learner\.load_in_4bit=true and"):
        RunConfig(env, learner=LearnerSettings(lora=lora), engine=engine, backend="transformers")
    with pytest.raises(ConfigError, match=r"found learner\.load_in_4bit=true and backend='vllm'"):
        RunConfig(env, learner=LearnerSettings(lora=lora, load_in_4bit=True), engine=engine)
