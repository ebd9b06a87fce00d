"""AdamW of bitsandbytes: states of 8 bits, what a checkpoint keeps of them, and what needs a GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llmgym.algorithms import BehaviourCloning
from llmgym.config import RunConfig, load_config
from llmgym.errors import LearnerError
from llmgym.learner import Learner, LoraSettings
from llmgym.learner.optimizer import learned_parameters

Make = Callable[..., Any]


def make_learner(model: Any, optimizer: str = "adamw-8bit", lora: LoraSettings | None = None) -> Learner:
    return Learner(
        model,
        lora=lora,
        algorithm=BehaviourCloning(2, 8, value_coef=0.5),
        optimizer=optimizer,  # type: ignore[arg-type]
        learning_rate=1e-2,
        weight_decay=0.01,
    )


def test_large_tensors_have_states_of_8_bits_and_all_weights_32(make_model: Make, make_batch: Make) -> None:
    learner = make_learner(make_model())
    losses = [learner.update(make_batch(10))["clone_loss"] for _ in range(3)]
    assert losses[-1] < 0.7 * losses[0]
    assert {parameter.dtype for parameter in learner.policy.parameters()} == {torch.float32}
    bits = {
        name: learner._optimizer.state[parameter]["state1"].dtype
        for name, parameter in learned_parameters(learner.policy).items()
        if parameter in learner._optimizer.state
    }
    assert bits["heads.value.inner.weight"] == torch.uint8
    assert {dtype for name, dtype in bits.items() if name != "heads.value.inner.weight"} == {torch.float32}


def test_its_steps_are_those_of_adamw_but_for_rounding(make_model: Make, make_batch: Make) -> None:
    plain, small = make_learner(make_model(), "adamw"), make_learner(make_model())
    for learner in (plain, small):
        learner.set_algorithm(BehaviourCloning(1, 1000, value_coef=0.5))
        assert learner.update(make_batch(10))["steps"] == 1
    for (name, first), second in zip(plain.policy.named_parameters(), small.policy.parameters(), strict=True):
        # Where a gradient is next to nothing, the two divide by next to nothing in their own ways.
        apart = ((first - second).abs() > 1e-5).float().mean()
        assert float(apart) < 0.02, name


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2)])
def test_a_run_goes_on_from_its_checkpoint_to_the_same_numbers(
    lora: LoraSettings | None, make_model: Make, make_batch: Make, tmp_path: Path
) -> None:
    make_model().save_pretrained(tmp_path / "model")
    learner = make_learner(tmp_path / "model", lora=lora)
    for seed in range(2):
        learner.update(make_batch(10, seed=seed))
    learner.save(tmp_path / "saved")
    loaded = Learner.load(tmp_path / "saved")
    for seed in range(2, 4):
        assert loaded.update(make_batch(10, seed=seed)) == learner.update(make_batch(10, seed=seed))
    for (name, first), second in zip(learner.policy.named_parameters(), loaded.policy.parameters(), strict=True):
        assert torch.equal(first, second), name


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, which can page")
@pytest.mark.parametrize("optimizer", ["adamw-paged", "adamw-paged-8bit"])
def test_paged_states_need_a_gpu(optimizer: str, make_model: Make) -> None:
    with pytest.raises(LearnerError) as caught:
        make_learner(make_model(), optimizer)
    assert str(caught.value) == (
        f"Expected a GPU for optimizer='{optimizer}', which moves its state out of a GPU's memory, found the model on "
        "the cpu. Take adamw-8bit or adamw."
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("optimizer", ["adamw-8bit", "adamw-paged", "adamw-paged-8bit"])
def test_on_a_gpu_all_of_them_learn_and_go_on(
    optimizer: str, make_model: Make, make_batch: Make, tmp_path: Path
) -> None:
    make_model().save_pretrained(tmp_path / "model")
    learner = make_learner(tmp_path / "model", optimizer)
    losses = [learner.update(make_batch(10))["clone_loss"] for _ in range(3)]
    assert losses[-1] < 0.7 * losses[0]
    learner.save(tmp_path / "saved")
    expected = learner.update(make_batch(10))
    assert Learner.load(tmp_path / "saved").update(make_batch(10)) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_a_recipe_names_it(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text('env = "llmgym/BabyAI-GoToLocal-v0"\n')
    config: RunConfig = load_config(tmp_path / "recipe.toml", ["learner.optimizer=adamw-8bit"])
    assert config.learner.optimizer == "adamw-8bit"
