"""Which weights learn: exactly those that were chosen change in an update, and a checkpoint remembers them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llmgym.config import RunConfig
from llmgym.engine import EngineSettings
from llmgym.errors import ConfigError, LearnerError
from llmgym.learner import Learner, LoraSettings
from llmgym.learner.freezing import TrainedSettings
from llmgym.learner.settings import LearnerSettings
from llmgym.types import Batch

Make = Callable[..., Any]


def changed_by(learner: Learner, batch: Batch) -> set[str]:
    """Return the names of the model's weights that an update changes."""
    before = {name: value.detach().clone() for name, value in learner.policy.causal_model.named_parameters()}
    learner.update(batch)
    after = dict(learner.policy.causal_model.named_parameters())
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def every_name(model: Any) -> set[str]:
    return {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("num_layers", [0, 1, 2])
def test_the_last_layers_and_what_is_behind_them_learn(num_layers: int, make_model: Make, make_batch: Make) -> None:
    learner = Learner(make_model(), trained=TrainedSettings(last_layers=num_layers), learning_rate=1e-3)
    layers = {f"model.layers.{number}." for number in range(2 - num_layers, 2)}
    expected = {
        name
        for name in every_name(make_model())
        if any(layer in name for layer in layers) or (num_layers and name in ("model.norm.weight", "lm_head.weight"))
    }
    value = learner.policy.heads["value"].outer.weight.detach().clone()  # type: ignore[union-attr]
    assert changed_by(learner, make_batch()) == expected
    assert not torch.equal(learner.policy.heads["value"].outer.weight, value), "heads learn always"  # type: ignore[arg-type,union-attr]


def test_tied_embeddings_stay_with_the_layers_below(make_model: Make, make_batch: Make) -> None:
    learner = Learner(make_model("gpt2"), trained=TrainedSettings(last_layers=1), learning_rate=1e-3)
    expected = {name for name in every_name(make_model("gpt2")) if ".h.1." in name or ".ln_f." in name}
    assert changed_by(learner, make_batch()) == expected


def test_named_weights_learn(make_model: Make, make_batch: Make) -> None:
    learner = Learner(make_model(), trained=TrainedSettings(names=("q_proj", "v_proj")), learning_rate=1e-3)
    expected = {name for name in every_name(make_model()) if "q_proj" in name or "v_proj" in name}
    assert changed_by(learner, make_batch()) == expected
    both = Learner(make_model(), trained=TrainedSettings(1, ("q_proj",)), learning_rate=1e-3)
    assert changed_by(both, make_batch()) == {"model.layers.1.self_attn.q_proj.weight"}


def test_a_checkpoint_remembers_what_learns(make_model: Make, make_batch: Make, tmp_path: Path) -> None:
    learner = Learner(make_model(), trained=TrainedSettings(last_layers=1, names=("mlp",)))
    learner.update(make_batch())
    learner.save(tmp_path / "saved")
    again = Learner.load(tmp_path / "saved")
    assert {name for name, _ in again.policy.model_parameters()} == {
        name for name, _ in learner.policy.model_parameters()
    }
    assert learner.update(make_batch(seed=1)) == again.update(make_batch(seed=1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (TrainedSettings(last_layers=3), r"last_layers from 0 to 2, the layers of LlamaForCausalLM, found 3\."),
        (TrainedSettings(names=("qproj",)), r"found 'qproj', which stands in none\. Did you mean 'q_proj'"),
        (TrainedSettings(names=("zzz",)), r"which stands in none\. There are .*q_proj"),
    ],
)
def test_weights_that_are_not_there_are_refused(settings: TrainedSettings, message: str, make_model: Make) -> None:
    with pytest.raises(LearnerError, match=message):
        Learner(make_model(), trained=settings)


def test_an_adapter_leaves_no_choice() -> None:
    learner = LearnerSettings(lora=LoraSettings(), trained=TrainedSettings(last_layers=1))
    with pytest.raises(ConfigError, match=r"Expected learner\.trained only without learner\.lora"):
        RunConfig("llmgym/FrozenLake-v0", learner=learner, engine=EngineSettings(max_lora_rank=16))
