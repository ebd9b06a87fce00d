"""bfloat16: what is kept in float32, that it learns, and that engine and learner do not disagree in silence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from llmgym.algorithms import PPO, BehaviourCloning
from llmgym.engine import load_engine
from llmgym.errors import LearnerError, SyncError
from llmgym.learner import Learner, LoraSettings
from llmgym.learner.lora import attach_lora
from llmgym.learner.optimizer import learned_parameters
from llmgym.types import Acting, Batch

Make = Callable[..., Any]
LORA = LoraSettings(rank=4)


def as_sampled_by(learner: Learner, batch: Batch) -> Batch:
    """Return a batch whose behaviour log-probabilities are those of a learner."""
    logprobs = learner.logprobs(batch.turns)
    turns = tuple(replace(turn, logprob=float(p)) for turn, p in zip(batch.turns, logprobs, strict=True))
    return replace(batch, turns=turns)


@pytest.mark.parametrize("lora", [None, LORA])
def test_a_step_at_a_small_rate_moves_float32_masters(
    lora: LoraSettings | None, make_model: Make, make_batch: Make
) -> None:
    learner = Learner(make_model(), lora=lora, precision="bf16", learning_rate=1e-6, algorithm=PPO(1, epochs=1))
    learned = learned_parameters(learner.policy)
    assert {parameter.dtype for parameter in learned.values()} == {torch.float32}
    frozen = {name: p.detach().clone() for name, p in learner.policy.model.named_parameters() if not p.requires_grad}
    assert {value.dtype for value in frozen.values()} == ({torch.bfloat16} if lora else set())
    before = {name: parameter.detach().clone() for name, parameter in learned.items()}
    learner.update(make_batch())
    moved = [name for name, value in before.items() if not torch.equal(value, learned[name])]
    assert any(name.startswith("model.") for name in moved)
    for name in moved:
        difference = (before[name] - learned[name]).abs().max()
        assert 0 < difference.item() < 1e-4
        if lora is None and "norm" in name:  # of weights that are 1: a bfloat16 would not have noticed
            assert torch.equal(before[name].bfloat16(), learned[name].bfloat16())
    states = [value for state in learner._optimizer.state.values() for value in state.values()]
    assert {value.dtype for value in states} == {torch.float32}
    now = dict(learner.policy.model.named_parameters())
    assert all(torch.equal(value, now[name]) for name, value in frozen.items())


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("lora", [None, LORA])
def test_it_learns(kind: str, lora: LoraSettings | None, make_model: Make, make_batch: Make) -> None:
    learner = Learner(
        make_model(kind),
        lora=lora,
        precision="bf16",
        algorithm=BehaviourCloning(4, 8),
        acting=Acting("constrained"),
        learning_rate=3e-3,
    )
    losses = [learner.update(make_batch(10))["clone_loss"] for _ in range(3)]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("lora", [None, LORA])
def test_rounding_shows_in_the_behaviour_gap(lora: LoraSettings | None, make_model: Make, make_batch: Make) -> None:
    exact = Learner(make_model(), lora=lora)
    batch = as_sampled_by(exact, make_batch())
    rounded = Learner(make_model(), lora=lora, precision="bf16", algorithm=PPO(epochs=1, minibatch_turns=1000))
    assert 1e-4 < rounded.update(batch)["behaviour_gap"] < 0.3
    again = Learner(make_model(), lora=lora, precision="bf16", algorithm=PPO(epochs=1, minibatch_turns=1000))
    assert again.update(as_sampled_by(again, batch))["behaviour_gap"] < 1e-5, "its own pass rounds alike"


@pytest.mark.parametrize("from_folder", [True, False])
@pytest.mark.parametrize("lora", [None, LORA])
def test_a_loaded_learner_goes_on_to_the_same_numbers(
    lora: LoraSettings | None, from_folder: bool, make_model: Make, make_batch: Make, tmp_path: Path
) -> None:
    make_model().save_pretrained(tmp_path / "base")
    model = tmp_path / "base" if from_folder else make_model()
    learner = Learner(model, lora=lora, precision="bf16", canary_tolerance=0.5, algorithm=BehaviourCloning(2, 8))
    learner.update(make_batch())
    learner.save(tmp_path / "checkpoint")
    loaded = Learner.load(tmp_path / "checkpoint")
    assert loaded.policy.precision == "bf16"
    assert loaded.canary_tolerance == 0.5
    for (name, first), second in zip(learner.policy.named_parameters(), loaded.policy.parameters(), strict=True):
        assert first.dtype == second.dtype, name
        assert torch.equal(first, second), name
    assert loaded.update(make_batch(seed=1)) == learner.update(make_batch(seed=1))


def test_weights_are_rounded_and_positions_are_not(make_model: Make) -> None:
    learner = Learner(make_model(), lora=LORA, precision="bf16")
    buffers = dict(learner.policy.causal_model.named_buffers())
    assert {value.dtype for name, value in buffers.items() if "inv_freq" in name} == {torch.float32}


def test_an_engine_in_float32_is_held_to_what_bfloat16_rounds(tiny_model: Path) -> None:
    with load_engine(str(tiny_model), backend="transformers") as engine:
        for lora in (None, LORA):
            learner = Learner(str(tiny_model), lora=lora, precision="bf16")
            assert learner.canary_tolerance == 0.25
            assert 1e-4 < learner.publish(engine)["canary_gap"] < 0.25
            learner.canary_tolerance = 1e-4
            with pytest.raises(SyncError, match=r"Expected engine and learner to agree within 0\.0001 after the swap"):
                learner.publish(engine)
            learner.close()
        exact = Learner(str(tiny_model))
        assert exact.canary_tolerance == 1e-3
        assert exact.publish(engine, version=9)["canary_gap"] < 1e-4


def test_an_engine_in_bfloat16_serves_it(tiny_model: Path) -> None:
    learner = Learner(str(tiny_model), lora=LORA, precision="bf16")
    with load_engine(str(tiny_model), backend="transformers", dtype="bfloat16") as engine:
        assert learner.publish(engine)["canary_gap"] < 0.25
    learner.close()


def test_what_there_is_not_is_refused(make_model: Make, tmp_path: Path) -> None:
    with pytest.raises(LearnerError, match=r"Expected a precision among float32, bf16, got 'fp16'\. Take one of them"):
        Learner(make_model(), precision="fp16")  # type: ignore[arg-type]
    make_model().save_pretrained(tmp_path)
    with pytest.raises(LearnerError, match="Expected precision='float32' with load_in_4bit=True, whose layers choose"):
        Learner(str(tmp_path), lora=LORA, load_in_4bit=True, precision="bf16")


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_dropout_works_in_the_update_only_and_repeats(
    kind: str, make_model: Make, make_batch: Make, tmp_path: Path
) -> None:
    make_model(kind).save_pretrained(tmp_path / "base")
    lora = LoraSettings(rank=4, dropout=0.3)

    def learn(seed: int, lora: LoraSettings = lora) -> tuple[Learner, list[dict[str, float]]]:
        learner = Learner(
            tmp_path / "base", lora=lora, learning_rate=1e-2, algorithm=PPO(epochs=2, minibatch_turns=6), seed=seed
        )
        return learner, [learner.update(make_batch(seed=number)) for number in range(2)]

    (first, metrics), (_, again) = learn(0), learn(0)
    assert metrics == again, "drawn with the learner's own generator"
    assert metrics != learn(0, LoraSettings(rank=4))[1]
    torch.manual_seed(5)  # whatever torch's own generator says
    batch = make_batch(seed=9)
    assert (first.logprobs(batch.turns) == first.logprobs(batch.turns)).all()
    first.save(tmp_path / "saved")
    loaded = Learner.load(tmp_path / "saved")
    assert loaded.policy.lora == lora
    assert (loaded.logprobs(batch.turns) == first.logprobs(batch.turns)).all()
    state = torch.random.get_rng_state()
    assert loaded.update(batch) == first.update(batch), "a resumed run draws on as the one before"
    assert torch.equal(torch.random.get_rng_state(), state), "torch's own generator is left alone"
    # Each step drops something else out, and so the policy that learns is not quite the one that acted.
    assert first.update(as_sampled_by(first, batch))["behaviour_gap"] > 1e-3
    assert not any(module.training for module in first.policy.modules())


def test_dropout_is_a_share(make_model: Make) -> None:
    with pytest.raises(LearnerError, match=r"Expected LoRA dropout from 0 to below 1, got 1\.0\. It is a share"):
        attach_lora(make_model(), LoraSettings(dropout=1.0))
