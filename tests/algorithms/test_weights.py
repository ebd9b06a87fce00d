"""Importance weights in losses: they weight what is drawn, and nothing else, in every algorithm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import exp, log

import pytest
import torch
from torch import Tensor

from llmgym.algorithms import ALGORITHMS, GRPO, PPO, Algorithm, Outputs, Targets
from llmgym.algorithms.reinforce_pp import ReinforcePP

ACTING = sorted(set(ALGORITHMS) - {"clone", "ilql"})
"""Those that learn from what their own policy drew: the other two imitate whoever acted."""


def make_targets(**changes: Tensor) -> Targets:
    ones = torch.ones(4)
    targets = Targets(
        actions=torch.zeros(4, dtype=torch.int64),
        behaviour_logprobs=torch.tensor([-0.6, -1.1, -0.4, -0.9]),
        advantages=torch.tensor([1.0, -2.0, 0.5, 3.0]),
        normalized_advantages=torch.tensor([0.5, -1.5, 0.1, 1.2]),
        returns=torch.tensor([1.0, 0.0, 2.0, -1.0]),
        values=torch.zeros(4),
        num_units=4,
        num_draws=ones,
        trajectory_units=2 * ones,
        num_trajectories=2.0,
        reference_logprobs=torch.full((4,), -0.8),
    )
    return replace(targets, **changes)


def gradients(algorithm: Algorithm, targets: Targets) -> tuple[Tensor, Tensor, Mapping[str, Tensor]]:
    """Return the loss's gradient by log-probabilities and by values, and the metrics."""
    logprobs = torch.tensor([-0.5, -1.0, -0.45, -1.0], requires_grad=True)
    values = torch.tensor([0.1, 0.2, 0.3, 0.4], requires_grad=True)
    outputs = Outputs(logprobs, torch.zeros(4, 0), torch.zeros(4), {"value": values})
    loss, metrics = algorithm.loss(outputs, targets)
    (loss + 0.0 * values.sum()).backward()
    assert logprobs.grad is not None
    assert values.grad is not None
    return logprobs.grad, values.grad, metrics


@pytest.mark.parametrize("name", ACTING)
def test_weights_of_1_change_no_bit(name: str) -> None:
    plain = gradients(ALGORITHMS[name](), make_targets())
    weighted = gradients(ALGORITHMS[name](), make_targets(weights=torch.ones(4)))
    assert torch.equal(weighted[0], plain[0])
    assert torch.equal(weighted[1], plain[1])
    assert all(torch.equal(weighted[2][key], plain[2][key]) for key in plain[2])


@pytest.mark.parametrize("name", ACTING)
def test_every_algorithm_weights_its_policy_and_not_its_values(name: str) -> None:
    weights = torch.tensor([0.0, 1.0, 2.0, 0.5])
    plain, values, _ = gradients(ALGORITHMS[name](), make_targets())
    weighted, values_again, _ = gradients(ALGORITHMS[name](), make_targets(weights=weights))
    torch.testing.assert_close(weighted, weights * plain)
    assert torch.equal(values_again, values)


@pytest.mark.parametrize("algorithm", [PPO(reference_coef=0.3, kl_coef=0.2), GRPO(reference_coef=0.3)])
def test_divergences_that_are_estimated_from_draws_are_weighted_too(algorithm: Algorithm) -> None:
    weights = torch.tensor([0.0, 1.0, 2.0, 0.5])
    plain, _, _ = gradients(algorithm, make_targets())
    weighted, _, _ = gradients(algorithm, make_targets(weights=weights))
    torch.testing.assert_close(weighted, weights * plain)


def test_the_reference_divergence_of_reinforce_pp_is_weighted() -> None:
    plain, _, _ = gradients(ReinforcePP(reference_coef=0.3), make_targets())
    weighted, _, _ = gradients(ReinforcePP(reference_coef=0.3), make_targets(weights=torch.full((4,), 0.5)))
    torch.testing.assert_close(weighted, 0.5 * plain)


def softmax_gradient(logits: tuple[float, float], targets: Targets) -> list[float]:
    """Return the gradient of PPO's policy loss by the logits of two actions, of which the first was taken."""
    leaf = torch.tensor([logits], requires_grad=True)
    logprobs = leaf.log_softmax(-1)
    outputs = Outputs(logprobs[:, 0], logprobs, torch.zeros(1), {})
    loss, _ = PPO(value_coef=0.0, entropy_coef=0.0, normalize_advantages=False).loss(outputs, targets)
    loss.backward()
    assert leaf.grad is not None
    gradient: list[float] = leaf.grad[0].tolist()
    return gradient


def one_turn(proximal: float, advantage: float, weight: float | None) -> Targets:
    one = torch.ones(1)
    return Targets(
        actions=torch.zeros(1, dtype=torch.int64),
        behaviour_logprobs=torch.tensor([log(proximal)]),
        advantages=advantage * one,
        normalized_advantages=advantage * one,
        returns=one,
        values=one,
        num_units=1,
        num_draws=one,
        trajectory_units=one,
        num_trajectories=1.0,
        weights=None if weight is None else weight * one,
    )


def test_ppo_on_stale_turns_has_the_decoupled_gradient_worked_by_hand() -> None:
    """The behaviour took the action with probability 0.4; at the start of the update it has 0.6: w = 1.5."""
    weight, advantage = 0.6 / 0.4, 2.0
    at_start = softmax_gradient((log(0.6), log(0.4)), one_turn(0.6, advantage, weight))
    # -w A grad log pi = -w A (1 - p, -(1 - p)), with a ratio of 1.
    assert at_start == pytest.approx([-weight * advantage * 0.4, weight * advantage * 0.4])
    # Later in the update the action has 0.66: the ratio to the proximal policy is 1.1, within the clip.
    later = softmax_gradient((log(0.66), log(0.34)), one_turn(0.6, advantage, weight))
    expected = weight * 1.1 * advantage * 0.34
    assert later == pytest.approx([-expected, expected], rel=1e-5)
    # At 0.75 it is 1.25, and clipped.
    assert softmax_gradient((log(0.75), log(0.25)), one_turn(0.6, advantage, weight)) == [0.0, 0.0]


def test_without_a_correction_staleness_counts_as_if_the_update_had_moved() -> None:
    assert softmax_gradient((log(0.6), log(0.4)), one_turn(0.4, 2.0, None)) == [0.0, 0.0], "a ratio of 1.5 is clipped"


def test_a_bad_action_that_the_learner_gave_up_hardly_counts() -> None:
    weight = 0.05 / 0.5
    gradient = softmax_gradient((log(0.05), log(0.95)), one_turn(0.05, -1.0, weight))
    assert gradient == pytest.approx([weight * 0.95, -weight * 0.95], rel=1e-5)
    assert exp(log(weight)) < 0.2
