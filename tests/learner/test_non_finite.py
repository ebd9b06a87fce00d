"""Losses and gradients that are not finite: stopped or skipped, counted, and told with what is broken."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from llmgym.algorithms import PPO, Outputs, Targets
from llmgym.errors import LearnerError
from llmgym.learner import Learner, NonFiniteError

Make = Callable[..., Any]


@dataclass
class BreaksAt:
    """PPO without entropy bonus whose loss is NaN at some calls, counted from 0."""

    calls: tuple[int, ...]
    epochs: int = 1
    minibatch_turns: int = 4
    num_calls: int = field(default=0, compare=False)

    def loss(self, outputs: Outputs, targets: Targets) -> tuple[Tensor, Mapping[str, Tensor]]:
        loss, metrics = PPO().loss(outputs, targets)
        self.num_calls += 1
        factor = math.nan if self.num_calls - 1 in self.calls else 1.0
        return loss * factor, {**metrics, "value_loss": metrics["value_loss"] * factor}


class Steep(nn.Module):
    """Finite at 0, with an infinite slope."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(hidden_size))

    def forward(self, hidden_states: Tensor) -> Tensor:
        return (0.0 * hidden_states.detach() + self.offset).sum(-1).sqrt()


def weights_of(learner: Learner) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in learner.policy.parameters()]


def is_same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_loss_that_is_not_finite_says_what_is_broken_and_in_which_turns(make_model: Make, make_batch: Make) -> None:
    batch = make_batch(10)
    learner = Learner(make_model(), algorithm=BreaksAt((2,)), max_tokens_per_microbatch=1)
    with pytest.raises(NonFiniteError, match=r"^Expected a finite loss, got nan \(policy_loss .*value_loss nan\)"):
        learner.update(batch)
    learner = Learner(make_model(), algorithm=BreaksAt((0,), minibatch_turns=1000))
    with pytest.raises(LearnerError) as caught:
        learner.update(batch)
    error = caught.value
    assert isinstance(error, NonFiniteError)
    assert error.broken == ("loss", "value_loss")
    assert math.isnan(error.metrics["value_loss"])
    assert math.isfinite(error.metrics["policy_loss"])
    assert {id(turn) for turn in error.turns} == {id(turn) for turn in batch.turns}


def test_a_gradient_that_is_not_finite_names_its_parameter_and_no_other(make_model: Make, make_batch: Make) -> None:
    learner = Learner(make_model(), heads={"value": Steep})
    with pytest.raises(
        NonFiniteError, match=r"^Expected a finite gradient, got norm nan, first in heads\.value\.offset \(1 of"
    ) as caught:
        learner.update(make_batch())
    assert caught.value.broken == ("heads.value.offset",)
    assert math.isfinite(caught.value.metrics["loss"])
    assert caught.value.turns


def test_a_skipped_step_changes_nothing_and_is_counted(make_model: Make, make_batch: Make) -> None:
    batch = make_batch(10)
    whole = Learner(make_model(), algorithm=BreaksAt(()), learning_rate=1e-3)
    num_steps = whole.update(batch)["steps"]
    assert num_steps > 3
    learner = Learner(make_model(), algorithm=BreaksAt((0, 2)), learning_rate=1e-3, on_non_finite="skip")
    metrics = learner.update(batch)
    assert (metrics["steps"], metrics["skipped_steps"]) == (num_steps - 2, 2)
    assert all(np.isfinite(value) for value in metrics.values())
    assert len(learner.skipped) == 2
    assert all(error.broken == ("loss", "value_loss") and error.turns for error in learner.skipped)
    assert all(torch.isfinite(weight).all() for weight in weights_of(learner))
    assert learner.update(batch)["skipped_steps"] == 0
    assert learner.skipped == []


def test_a_step_is_skipped_whole_whichever_micro_batch_breaks_it(make_model: Make, make_batch: Make) -> None:
    # One step of several micro-batches: nothing of those that are finite may be left in the gradients of the next.
    batch = make_batch(6)
    learner = Learner(
        make_model(),
        algorithm=BreaksAt((2,), epochs=2, minibatch_turns=1000),
        max_tokens_per_microbatch=1,
        learning_rate=1e-3,
        on_non_finite="skip",
    )
    metrics = learner.update(batch)
    assert (metrics["steps"], metrics["skipped_steps"]) == (1, 1)
    assert metrics["explained_variance"] == 0.0, "of an epoch in which nothing was learned"
    plain = Learner(make_model(), algorithm=BreaksAt((), minibatch_turns=1000), learning_rate=1e-3)
    assert plain.update(batch)["grad_norm"] == pytest.approx(metrics["grad_norm"], rel=1e-5)
    for first, second in zip(weights_of(learner), weights_of(plain), strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=2e-4)


def test_an_update_of_skipped_steps_only_ends_in_an_error(make_model: Make, make_batch: Make) -> None:
    learner = Learner(make_model(), heads={"value": Steep}, algorithm=PPO(minibatch_turns=4), on_non_finite="skip")
    before = weights_of(learner)
    message = r"^Expected a step of the update that can be taken, but all \d+ were skipped, and nothing was"
    with pytest.raises(NonFiniteError, match=message) as caught:
        learner.update(make_batch())
    assert "first in heads.value.offset" in str(caught.value)
    assert caught.value.turns == learner.skipped[0].turns
    assert is_same(before, weights_of(learner))
    assert all(parameter.grad is None for parameter in learner.policy.parameters())
