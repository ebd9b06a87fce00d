"""Adapters of another base model, which engines refuse with what was expected and what was found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmgym.engine import load_engine
from llmgym.engine.adapter_fit import check_adapter, layer_sizes, model_layer_sizes
from llmgym.errors import EngineError
from llmgym.learner import Learner, LoraSettings
from llmgym.types import Engine


@pytest.fixture
def adapter(tiny_zoo: dict[str, Path], tmp_path: Path) -> Path:
    """An adapter of the llama of `tiny_zoo`, whose layers have other sizes than the tiny model's."""
    learner = Learner(str(tiny_zoo["llama"]), lora=LoraSettings(rank=2, targets=("down_proj",)))
    learner.policy.write_adapter(str(tmp_path / "adapter"))
    return tmp_path / "adapter"


def refusal(adapter: Path, trained_on: Path, model: Path) -> str:
    return (
        f"Expected an adapter that fits the model, but the one in {adapter} does not: it was trained on {trained_on}, "
        "and its model.layers.0.mlp.down_proj takes 64 numbers and gives 64, where "
        f"{model} takes 128 and gives 64. Load an adapter that was trained on this model."
    )


def test_the_transformers_engine_refuses_it(adapter: Path, tiny_zoo: dict[str, Path], tiny_model: Path) -> None:
    with load_engine(str(tiny_model), backend="transformers") as engine:
        with pytest.raises(EngineError) as caught:
            engine.load_adapter(str(adapter), 1)
        assert str(caught.value) == refusal(adapter, tiny_zoo["llama"], tiny_model)
        assert engine.version == 0


def test_vllm_refuses_it(adapter: Path, tiny_zoo: dict[str, Path], tiny_model: Path, adapter_engine: Engine) -> None:
    version = adapter_engine.version
    with pytest.raises(EngineError) as caught:
        adapter_engine.load_adapter(str(adapter), 77)
    assert str(caught.value) == refusal(adapter, tiny_zoo["llama"], tiny_model)
    assert adapter_engine.version == version


def test_an_adapter_fits_its_own_model_whatever_the_layers_are(tiny_zoo: dict[str, Path], tmp_path: Path) -> None:
    for kind in ("llama", "gpt2"):
        source = str(tiny_zoo[kind])
        learner = Learner(source, lora=LoraSettings(rank=2))
        learner.policy.write_adapter(str(tmp_path / kind))
        check_adapter(str(tmp_path / kind), model_layer_sizes(source), source)
    with pytest.raises(EngineError, match=r"where llama has no such layer\. Load an adapter that was trained"):
        check_adapter(str(tmp_path / "gpt2"), model_layer_sizes(str(tiny_zoo["llama"])), "llama")


def test_sizes_are_read_without_weights(tiny_zoo: dict[str, Path]) -> None:
    from transformers import AutoModelForCausalLM

    for kind in ("llama", "gpt2"):
        loaded: Any = AutoModelForCausalLM.from_pretrained(tiny_zoo[kind])
        assert model_layer_sizes(str(tiny_zoo[kind])) == layer_sizes(loaded)
