"""Episodes from the same start, compared: advantages worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from llmgym.algorithms import DAPO, GRPO, GSPO, RLOO, DrGRPO, GiGPO, ReinforcePP, RejectionSampling, ReturnSettings
from llmgym.algorithms.algorithm import EstimatesAdvantages
from llmgym.algorithms.dapo import overlong_penalty
from llmgym.algorithms.gigpo import anchor_groups
from llmgym.errors import LearnerError
from llmgym.types import FloatArray, Trajectory, Turn

PLAIN = ReturnSettings(gamma=1.0)


def turn(reward: float = 0.0, *, ends: bool = False, draws: int = 1, state: int = 0) -> Turn:
    return Turn(
        prompt_ids=np.array([3], np.int32),
        candidate_ids=((4,), (5,)),
        action=0,
        logprob=-1.0,
        reward=reward,
        terminated=ends,
        truncated=False,
        policy_version=1,
        sampled_ids=(7,) * (draws - 1),
        draw_logprobs=(-1.0 / draws,) * draws if draws > 1 else (),
        state_key=state,
    )


def episode(seed: int, *rewards: float, draws: int = 1, states: tuple[int, ...] = ()) -> Trajectory:
    """Return an episode of a turn a reward."""
    last = len(rewards) - 1
    turns = [
        turn(reward, ends=number == last, draws=draws, state=states[number] if states else 0)
        for number, reward in enumerate(rewards)
    ]
    return Trajectory(tuple(turns), None, seed=seed)


def rounded(advantages: list[FloatArray]) -> list[list[float]]:
    return [np.round(each, 4).tolist() for each in advantages]


FOUR = [episode(1, 0.0, 1.0), episode(2, 0.5), episode(1, 0.0), episode(2, 0.5)]
"""Two groups, one behind the other in turns: one whose returns are 1 and 0, and one in which all are 0.5."""


def test_grpo_shifts_and_scales_within_a_group_and_gives_all_of_an_episode_the_same() -> None:
    estimates = GRPO().estimate(FOUR, None, PLAIN)
    assert rounded(list(estimates.advantages)) == [[1.0, 1.0], [0.0], [-1.0], [0.0]]
    assert estimates.metrics == {"equal_groups": 0.5}
    assert estimates.kept is None


def test_dr_grpo_only_shifts() -> None:
    assert rounded(list(DrGRPO().estimate(FOUR, None, PLAIN).advantages)) == [[0.5, 0.5], [0.0], [-0.5], [0.0]]


def test_rloo_compares_with_the_others() -> None:
    three = [episode(1, 0.0), episode(1, 0.0), episode(1, 3.0)]
    assert rounded(list(RLOO().estimate(three, None, PLAIN).advantages)) == [[-1.5], [-1.5], [3.0]]
    alone = RLOO().estimate([episode(1, 3.0)], None, PLAIN)
    assert rounded(list(alone.advantages)) == [[0.0]]


@pytest.mark.parametrize("algorithm", [RLOO(), GRPO(), DrGRPO(), GiGPO()])
def test_advantages_of_a_group_add_up_to_nothing(algorithm: EstimatesAdvantages) -> None:
    rng = np.random.default_rng(0)
    group = [episode(5, float(rng.normal())) for _ in range(7)]
    total = sum(float(each.sum()) for each in algorithm.estimate(group, None, PLAIN).advantages)
    assert total == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize(
    "algorithm",
    [GRPO(), GRPO(credit="turn"), DrGRPO(), DAPO(), GSPO(), GiGPO(), RLOO(), ReinforcePP(has_baseline=True)],
)
@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, -1 / 3, 1000.1, 1e6 + 0.1])
@pytest.mark.parametrize("size", [1, 3, 7])
def test_a_group_without_spread_has_advantages_of_exactly_0_and_is_counted(
    algorithm: EstimatesAdvantages, reward: float, size: int
) -> None:
    # The mean of large equal numbers is rounded: by their deviation alone they would seem to differ.
    equal = [episode(1, 0.0, reward, draws=2, states=(1, 2)) for _ in range(size)]
    differing = [episode(2, 0.0, each, draws=2, states=(1, 2)) for each in (0.0, 1.0)]
    estimates = algorithm.estimate([*equal, *differing], None, PLAIN)
    assert all((each == 0.0).all() for each in estimates.advantages[:size])
    assert all(np.isfinite(each).all() and each.any() for each in estimates.advantages[size:])
    assert estimates.metrics["equal_groups"] == 0.5
    assert estimates.kept is None or estimates.kept == [size, size + 1]


def test_every_draw_of_an_episode_has_its_advantage() -> None:
    group = [episode(1, 1.0, draws=3), episode(1, 0.0, draws=2)]
    assert rounded(list(GRPO().estimate(group, None, PLAIN).advantages)) == [[1.0] * 3, [-1.0] * 2]
    assert rounded(list(GRPO(credit="turn").estimate(group, None, PLAIN).advantages)) == [[1.0], [-1.0]]


def test_dapo_keeps_groups_whose_returns_differ() -> None:
    assert DAPO().estimate(FOUR, None, PLAIN).kept == [0, 2]


def test_dapo_punishes_long_answers_whatever_the_scale_of_rewards() -> None:
    assert [overlong_penalty(length, 4, 0) for length in (4, 5)] == [0.0, -1.0]
    long, short = episode(1, 1.0, draws=9), episode(1, 1.0, draws=2)
    algorithm = DAPO(max_answer_tokens=8, answer_margin_tokens=4, credit="turn")
    for scale in (1.0, 20.0):
        estimates = algorithm.estimate([long, short], None, ReturnSettings(gamma=1.0, reward_scale=scale))
        assert rounded(list(estimates.advantages)) == [[-1.0], [1.0]]
        assert estimates.returns[0][0] == pytest.approx(scale * 1.0 - 1.0)


def test_reinforce_pp_looks_ahead_or_at_its_group() -> None:
    settings = ReturnSettings(gamma=0.5)
    assert rounded(list(ReinforcePP().estimate(FOUR, None, settings).advantages)) == [[0.5, 1.0], [0.5], [0.0], [0.5]]
    by_group = ReinforcePP(has_baseline=True).estimate(FOUR, None, PLAIN)
    assert rounded(list(by_group.advantages)) == [[0.5, 0.5], [0.0], [-0.5], [0.0]]


def test_gigpo_compares_turns_in_the_same_state_of_the_same_group() -> None:
    # Both meet state 10; one wins from there after another step, one does not. State 10 of another group is another.
    one, other = episode(1, 0.0, 1.0, states=(10, 11)), episode(1, 0.0, 0.0, states=(10, 12))
    elsewhere = episode(2, 1.0, states=(10,))
    assert anchor_groups([one, other, elsewhere]) == [[0, 2], [1], [3], [4]]
    estimates = GiGPO().estimate([one, other, elsewhere], None, ReturnSettings(gamma=0.5))
    assert rounded(list(estimates.advantages)) == [[2.0, 1.0], [-2.0, -1.0], [0.0]]
    assert estimates.metrics == {"equal_groups": 0.5, "anchored_turns": 0.4}
    weighted = GiGPO(step_coef=0.5, scales_by_deviation=False).estimate([one, other], None, ReturnSettings(gamma=0.5))
    assert rounded(list(weighted.advantages)) == [[0.25 + 0.5 * 0.25, 0.25], [-0.25 - 0.5 * 0.25, -0.25]]


def test_rejection_keeps_what_succeeds_or_the_best_of_it() -> None:
    episodes = [episode(1, 0.2), episode(1, 0.9), episode(2, 0.0), episode(2, 0.0)]
    assert RejectionSampling().estimate(episodes, None, PLAIN).kept == [0, 1]
    assert RejectionSampling(kept_share=0.5).estimate(episodes, None, PLAIN).kept == [1]
    assert RejectionSampling(least_return=5.0).estimate(episodes, None, PLAIN).kept == []


@pytest.mark.parametrize("algorithm", [GRPO(), ReinforcePP(), RejectionSampling()])
def test_half_an_episode_is_refused(algorithm: EstimatesAdvantages) -> None:
    cut = Trajectory((turn(),), np.array([3], np.int32), seed=1)
    with pytest.raises(LearnerError, match=r"Expected whole episodes, since nothing is bootstrapped without a critic"):
        algorithm.estimate([episode(1, 1.0), cut], None, PLAIN)


def test_an_episode_without_a_seed_belongs_to_no_group() -> None:
    with pytest.raises(LearnerError, match="Expected the seed of every trajectory"):
        GRPO().estimate([Trajectory((turn(ends=True),), None)], None, PLAIN)
