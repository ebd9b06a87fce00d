"""Values and log-probabilities from one pass against those from a pass each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from llmgym.algorithms import PPO, Credit, ReturnSettings
from llmgym.algorithms.gae import estimate_with_critic
from llmgym.config import CollectSettings
from llmgym.errors import LearnerError
from llmgym.learner import Learner
from llmgym.learner.heads import Reads, ValueHead
from llmgym.run.experience import learn_from
from llmgym.types import Acting, Batch, Trajectory, Turn

CANDIDATES = ((5, 6), (5, 7), (5, 6, 8, 9), (10,))
Make = Callable[..., Any]


def episode(how: str, *, seed: int, num_turns: int = 3, grows: bool = True, ends: str = "cut") -> Trajectory:
    """Make an episode whose turns have 1, 2, ... free tokens where there are any, and whose prompts grow or do not."""
    rng = np.random.default_rng(seed)
    prompt, turns = [int(token) for token in rng.integers(2, 64, size=4)], []
    for number in range(num_turns):
        sampled = tuple(map(int, rng.integers(2, 64, size=1 + number))) if how in ("text", "reason") else ()
        is_last = number == num_turns - 1
        turns.append(
            Turn(
                np.array(prompt, np.int32),
                CANDIDATES,
                int(rng.integers(len(CANDIDATES))),
                logprob=-1.0,
                reward=float(rng.normal()),
                terminated=is_last and ends == "terminated",
                truncated=is_last and ends == "truncated",
                policy_version=0,
                sampled_ids=sampled,
                cue_ids=(20, 21) if how == "reason" else (),
                draw_logprobs=(-0.5,) * (len(sampled) + (how != "text")) if sampled else (),
            )
        )
        said = (*sampled, *((20, 21) if how == "reason" else ()), *(() if how == "text" else (5, 6)))
        prompt = [*prompt, *said, 30, 31] if grows else [int(token) for token in rng.integers(2, 64, size=5)]
    return Trajectory(tuple(turns), None if ends == "terminated" else np.array(prompt, np.int32))


def made(reads: Reads, trunk: Any) -> Callable[[int], ValueHead]:
    """Make a head that says something: a new one says 0."""

    def make(hidden_size: int) -> ValueHead:
        head = ValueHead(hidden_size, reads=reads, trunk=trunk)
        for parameter in head.parameters():
            parameter.data.uniform_(-0.5, 0.5)
        return head

    return make


@pytest.mark.parametrize(("reads", "trunk"), [("state", "shared"), ("mean", "shared"), ("state", "separate")])
@pytest.mark.parametrize("credit", ["turn", "draw"])
@pytest.mark.parametrize("how", ["score", "constrained", "reason", "text"])
def test_one_pass_says_what_two_passes_say(
    how: Any, credit: Credit, reads: Reads, trunk: Any, make_model: Make
) -> None:
    learner = Learner(
        make_model(),
        acting=Acting(how),
        algorithm=PPO(credit=credit),
        heads={"value": made(reads, trunk)},
        max_tokens_per_microbatch=60,
    )
    ends = ["cut", "terminated", "truncated"]
    trajectories = [
        episode(how, seed=number, num_turns=1 + number, grows=grows, ends=end)
        for grows in (True, False)
        for number, end in enumerate(ends)
    ]
    review = learner.review(trajectories)
    assert len(review.values) == len(trajectories)
    for found, expected in zip(review.values, learner.values(trajectories), strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5, strict=True)
    assert np.abs(np.concatenate(review.values)).max() > 0.01, "the head says something"
    turns = [turn for trajectory in trajectories for turn in trajectory.turns]
    assert len(review.logprobs) == len(turns)
    np.testing.assert_allclose(
        np.concatenate(review.logprobs), learner.logprobs(turns, credit=credit), atol=1e-5, strict=True
    )


def test_a_head_that_is_not_there_is_named(make_model: Make, make_episode: Make) -> None:
    learner = Learner(make_model(), heads={})
    with pytest.raises(LearnerError, match="Expected a head 'value', found: none"):
        learner.review([make_episode(0)])


class Watched:
    """A learner that tells what it read, and keeps the batch instead of learning from it."""

    def __init__(self, learner: Learner) -> None:
        self.read: list[str] = []
        self.batch: Batch | None = None
        self._learner = learner

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._learner, name)
        if name not in ("values", "logprobs", "review"):
            return found

        def watched(*arguments: Any, **settings: Any) -> Any:
            self.read.append(name)
            return found(*arguments, **settings)

        return watched

    def update(self, batch: Batch) -> dict[str, float]:
        self.batch = batch
        return {}


@pytest.mark.parametrize("credit", ["turn", "draw"])
def test_stale_turns_are_read_once_and_weighted_alike(credit: Credit, make_model: Make) -> None:
    learner = Learner(make_model(), acting=Acting("reason"), algorithm=PPO(credit=credit))
    learner.version = 2
    trajectories = []
    for number in range(3):
        whole = episode("reason", seed=number, num_turns=2 + number)
        turns = tuple(replace(one, policy_version=1 + place % 2) for place, one in enumerate(whole.turns))
        trajectories.append(replace(whole, turns=turns))
    settings = ReturnSettings(gamma=0.9)
    watched: Any = Watched(learner)
    metrics = learn_from(trajectories, watched, settings, CollectSettings(staleness=1))
    assert watched.read == ["review"]
    assert 0 < metrics["staleness"] < 1
    batch = watched.batch
    values = learner.values(trajectories)
    estimates = estimate_with_critic(trajectories, values, settings, credit)
    np.testing.assert_allclose(batch.advantages, np.concatenate(estimates.advantages), atol=1e-5)
    now = learner.logprobs(batch.turns, credit=credit)
    units = [len(turn.sampled_ids) + 1 if credit == "draw" else 1 for turn in batch.turns]
    is_stale = np.repeat([turn.policy_version == 1 for turn in batch.turns], units)
    drawn = -0.5 if credit == "draw" else -1.0
    np.testing.assert_allclose(batch.proximal_logprobs, np.where(is_stale, now, drawn), atol=1e-5)
    expected = np.where(is_stale, np.minimum(np.exp(now - drawn), 2.0), 1.0)
    np.testing.assert_allclose(batch.weights, expected, rtol=1e-4)


def test_turns_of_the_policy_that_learns_are_not_scored_again(make_model: Make, make_episode: Make) -> None:
    watched: Any = Watched(Learner(make_model()))
    metrics = learn_from([make_episode(0)], watched, ReturnSettings(), CollectSettings(staleness=4))
    assert metrics["weight"] == 1.0
    assert watched.read == ["values"]
