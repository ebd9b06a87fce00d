"""Importance correction of what an older policy drew: weights by hand, and with a real model whose weights moved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from llmgym.algorithms import PPO, Outputs, Targets
from llmgym.errors import LearnerError
from llmgym.learner import Learner
from llmgym.learner.correction import Correction, correct_stale, importance_weights
from llmgym.types import NO_VERSION, Acting, Batch, FloatArray, Turn

Make = Callable[..., Any]
TRUNCATED, MASKED = Correction("truncated", 2.0), Correction("masked", 2.0)


def log_ratios(*ratios: float) -> FloatArray:
    return np.log(np.array(ratios, np.float32))


def test_weights_worked_by_hand() -> None:
    ratios = log_ratios(0.1, 0.4, 0.5, 1.0, 1.9, 2.1, 50.0)
    truncated = importance_weights(ratios, TRUNCATED)
    np.testing.assert_allclose(truncated, [0.1, 0.4, 0.5, 1.0, 1.9, 2.0, 2.0], rtol=1e-6)
    masked = importance_weights(ratios + np.float32(1e-6), MASKED)
    np.testing.assert_allclose(masked, [0.0, 0.0, 0.5, 1.0, 1.9, 0.0, 0.0], rtol=1e-5)
    assert truncated.dtype == masked.dtype == np.float32


def test_weights_of_what_became_impossible_or_certain_are_finite() -> None:
    far = np.array([-1000.0, 1000.0], np.float32)
    assert importance_weights(far, TRUNCATED).tolist() == [0.0, 2.0]
    assert importance_weights(far, MASKED).tolist() == [0.0, 0.0]


def turn(version: int, logprob: float, draws: tuple[float, ...] = ()) -> Turn:
    prompt = np.array([2, 3], np.int32)
    return Turn(prompt, ((5,), (6,)), 0, logprob, 0.0, True, False, version, draw_logprobs=draws)


def batch_of(*turns: Turn, num_units: int | None = None) -> Batch:
    zeros = np.zeros(num_units or len(turns), np.float32)
    return Batch(turns, zeros, zeros, zeros, metrics={"kept": 1.0})


def test_only_turns_of_an_older_policy_are_weighted() -> None:
    asked: list[Sequence[Turn]] = []

    def logprobs(turns: Sequence[Turn]) -> FloatArray:
        asked.append(turns)
        return log_ratios(0.9, 0.2)

    batch = batch_of(turn(3, -0.1), turn(2, -1.0), turn(NO_VERSION, 0.0), turn(1, -0.5))
    corrected = correct_stale(batch, 3, logprobs, credit="turn", correction=TRUNCATED)
    assert asked == [[batch.turns[1], batch.turns[3]]]
    assert corrected.weights is not None
    assert corrected.proximal_logprobs is not None
    expected = [1.0, min(0.9 / np.exp(-1.0), 2.0), 1.0, 0.2 / np.exp(-0.5)]
    np.testing.assert_allclose(corrected.weights, expected, rtol=1e-6)
    np.testing.assert_allclose(corrected.proximal_logprobs, [-0.1, np.log(0.9), 0.0, np.log(0.2)], rtol=1e-6)
    assert corrected.weights[0] == corrected.weights[2] == 1.0
    assert corrected.metrics["weight"] == pytest.approx(np.mean(expected))
    assert corrected.metrics["weight_clipped"] == 1 / 4
    assert corrected.metrics["kept"] == 1.0


def test_every_draw_has_a_weight_where_credit_is_given_to_draws() -> None:
    batch = batch_of(turn(1, -0.3, (-0.1, -0.2)), turn(0, -3.0, (-1.0, -2.0)), num_units=4)
    corrected = correct_stale(batch, 1, lambda _turns: np.array([-1.0, -4.0]), credit="draw", correction=MASKED)
    assert corrected.weights is not None
    assert corrected.proximal_logprobs is not None
    assert corrected.weights.tolist() == [1.0, 1.0, 1.0, 0.0], "the second draw's weight is exp(-2)"
    np.testing.assert_allclose(corrected.proximal_logprobs, [-0.1, -0.2, -1.0, -4.0])
    assert corrected.metrics["weight_clipped"] == 1 / 4


def test_a_batch_of_the_policy_that_learns_stays_as_it_is() -> None:
    def refuse(turns: Sequence[Turn]) -> FloatArray:
        raise AssertionError(turns)

    batch = batch_of(turn(3, -0.1), turn(NO_VERSION, 0.0))
    corrected = correct_stale(batch, 3, refuse, credit="turn", correction=TRUNCATED)
    assert corrected.weights is None
    assert corrected.proximal_logprobs is None
    assert corrected.metrics == {"kept": 1.0, "weight": 1.0, "weight_clipped": 0.0}


@dataclass(frozen=True)
class Spy:
    """An algorithm that keeps what it is told."""

    seen: list[tuple[Outputs, Targets]]
    credit: Any = "turn"
    epochs: int = 1
    minibatch_turns: int = 100

    def loss(self, outputs: Outputs, targets: Targets) -> tuple[Tensor, dict[str, Tensor]]:
        self.seen.append((outputs, targets))
        return targets.mean(outputs.logprobs) * 0.0, {}


def as_drawn(learner: Learner, batch: Batch, version: int) -> Batch:
    """Return a batch as the learner's policy would have drawn it."""
    logprobs = learner.logprobs(batch.turns)
    pairs = zip(batch.turns, logprobs, strict=True)
    turns = tuple(replace(one, logprob=float(logprob), policy_version=version) for one, logprob in pairs)
    return replace(batch, turns=turns)


def perturb(learner: Learner, size: float) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, parameter in learner.policy.model_parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator)


def test_ratios_are_against_what_was_recorded_whatever_moved(make_model: Make, make_batch: Make) -> None:
    """The policy that drew is the model; the one that learns is the model, moved by a little."""
    learner = Learner(make_model(), algorithm=PPO(epochs=1))
    drawn = as_drawn(learner, make_batch(), version=0)
    perturb(learner, 0.02)
    now = learner.logprobs(drawn.turns)
    moved = now - np.array([one.logprob for one in drawn.turns], np.float32)
    assert np.abs(moved).max() > 0.01, "the perturbation shows"

    learner.set_algorithm(Spy(plain := []))
    assert learner.update(drawn)["behaviour_gap"] == pytest.approx(np.abs(moved).max(), abs=1e-5)
    ((outputs, targets),) = plain
    assert targets.weights is None
    behaviour = dict(zip(targets.behaviour_logprobs.tolist(), outputs.logprobs.tolist(), strict=True))
    for one, expected in zip(drawn.turns, now, strict=True):
        assert behaviour[float(np.float32(one.logprob))] == pytest.approx(float(expected), abs=1e-5)

    corrected = correct_stale(drawn, 1, learner.logprobs, credit="turn", correction=TRUNCATED)
    learner.set_algorithm(Spy(seen := []))
    assert learner.update(corrected)["behaviour_gap"] < 1e-5, "the first ratio is 1: the proximal policy is this one"
    ((outputs, targets),) = seen
    torch.testing.assert_close(outputs.logprobs, targets.behaviour_logprobs, atol=1e-5, rtol=0)
    assert targets.weights is not None
    assert sorted(targets.weights.tolist()) == pytest.approx(sorted(np.minimum(np.exp(moved), 2.0)), rel=1e-4)


def test_a_first_step_on_stale_turns_clips_nothing_once_they_are_corrected(make_model: Make, make_batch: Make) -> None:
    drawn = as_drawn(Learner(make_model()), make_batch(), version=0)
    plain = Learner(make_model(), algorithm=PPO(epochs=1, minibatch_turns=1000))
    perturb(plain, 0.1)
    corrected = correct_stale(drawn, 5, plain.logprobs, credit="turn", correction=TRUNCATED)
    metrics = plain.update(corrected)
    assert metrics["clip_fraction"] == 0.0
    assert metrics["approx_kl"] < 1e-9
    other = Learner(make_model(), algorithm=PPO(epochs=1, minibatch_turns=1000))
    perturb(other, 0.1)
    assert other.update(drawn)["clip_fraction"] > 0.0


def test_fresh_turns_teach_the_same_to_a_bit_with_and_without_the_correction(
    make_model: Make, make_batch: Make
) -> None:
    learners = [Learner(make_model(), algorithm=PPO(epochs=2, minibatch_turns=4), learning_rate=1e-2) for _ in range(3)]
    drawn = as_drawn(learners[0], make_batch(), version=4)
    corrected = correct_stale(drawn, 4, learners[1].logprobs, credit="turn", correction=TRUNCATED)
    ones = replace(drawn, weights=np.ones(len(drawn.turns), np.float32))
    metrics = [learner.update(batch) for learner, batch in zip(learners, (drawn, corrected, ones), strict=True)]
    assert metrics[0] == metrics[1] == metrics[2]
    for other in learners[1:]:
        pairs = zip(learners[0].policy.parameters(), other.policy.parameters(), strict=True)
        assert all(torch.equal(mine, theirs) for mine, theirs in pairs)


def test_log_probabilities_of_draws_add_up_to_those_of_turns(make_model: Make, make_turn: Make) -> None:
    learner = Learner(make_model(), acting=Acting("reason"))
    turns = [
        replace(
            make_turn([3, 4, 5]), sampled_ids=(7, 8, 9)[:length], cue_ids=(20,), draw_logprobs=(-1.0,) * (length + 1)
        )
        for length in (1, 3)
    ]
    draws = learner.logprobs(turns, credit="draw")
    assert draws.shape == (6,)
    np.testing.assert_allclose([draws[:2].sum(), draws[2:].sum()], learner.logprobs(turns), atol=1e-5)


def test_draws_are_corrected_one_by_one_by_a_learner(make_model: Make, make_turn: Make) -> None:
    learner = Learner(make_model(), acting=Acting("reason"), algorithm=PPO(credit="draw", epochs=1))
    unweighted = [
        replace(make_turn([3, 4, 5]), sampled_ids=(7, 8), cue_ids=(20,), draw_logprobs=(-9.0,) * 3, policy_version=one)
        for one in (0, 1)
    ]
    zeros = np.zeros(6, np.float32)
    batch = Batch(tuple(unweighted), zeros + 1, zeros, zeros)
    logprobs = partial(learner.logprobs, credit="draw")
    corrected = correct_stale(batch, 1, logprobs, credit="draw", correction=TRUNCATED)
    assert corrected.weights is not None
    np.testing.assert_allclose(corrected.weights, [2.0, 2.0, 2.0, 1.0, 1.0, 1.0])
    assert learner.update(corrected)["steps"] == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": np.ones(2, np.float32)}, "Expected importance weights for 3 turns, got 2"),
        ({"weights": np.array([1, np.nan, 1], np.float32)}, "Expected finite importance weights, got nan at turn 1"),
        ({"proximal_logprobs": np.ones(4, np.float32)}, "Expected proximal log-probabilities for 3 turns, got 4"),
    ],
)
def test_weights_that_make_no_sense_are_refused(changes, message, make_model: Make) -> None:
    batch = replace(batch_of(turn(0, -1.0), turn(0, -1.0), turn(0, -1.0)), **changes)
    with pytest.raises(LearnerError, match=message):
        Learner(make_model()).update(batch)
