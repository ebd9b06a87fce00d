import numpy as np
import pytest

from llmgym.algorithms import advantages_and_returns, trajectory_advantages
from llmgym.errors import LearnerError
from llmgym.types import Trajectory, Turn


def make_trajectory(rewards: list[float], *, terminated: bool = False, truncated: bool = False) -> Trajectory:
    last = len(rewards) - 1
    turns = tuple(
        Turn(
            prompt_ids=np.arange(1, 2 + turn, dtype=np.int32),
            candidate_ids=((1,), (2,)),
            action=0,
            logprob=-0.5,
            reward=reward,
            terminated=terminated and turn == last,
            truncated=truncated and turn == last,
            policy_version=0,
        )
        for turn, reward in enumerate(rewards)
    )
    return Trajectory(turns, None if terminated else np.arange(1, 9, dtype=np.int32))


def test_three_turns_worked_by_hand() -> None:
    # gamma 0.5, lambda 0.5; V = 1, 2, 4 and 8 after the end.
    # delta_2 = 3 + 0.5*8 - 4 = 3;   delta_1 = 0 + 0.5*4 - 2 = 0;   delta_0 = 1 + 0.5*2 - 1 = 1
    # A_2 = 3;   A_1 = 0 + 0.25*3 = 0.75;   A_0 = 1 + 0.25*0.75 = 1.1875
    advantages, returns = advantages_and_returns([1.0, 0.0, 3.0], [1.0, 2.0, 4.0], 8.0, gamma=0.5, lam=0.5)
    assert advantages.dtype == returns.dtype == np.float32
    np.testing.assert_allclose(advantages, [1.1875, 0.75, 3.0])
    np.testing.assert_allclose(returns, [2.1875, 2.75, 7.0])


def test_terminated_episode_ignores_the_value_after_its_last_turn() -> None:
    values = np.array([0.5, 0.5, 100.0], np.float32)
    advantages, returns = trajectory_advantages(make_trajectory([0.0, 1.0], terminated=True), values, gamma=0.9, lam=1)
    np.testing.assert_allclose(returns, [0.9, 1.0], rtol=1e-6)
    np.testing.assert_allclose(advantages, [0.4, 0.5], rtol=1e-6)


def test_truncated_episode_bootstraps_from_last_value() -> None:
    values = np.array([0.5, 0.5, 2.0], np.float32)
    _, returns = trajectory_advantages(make_trajectory([0.0, 1.0], truncated=True), values, gamma=0.9, lam=1)
    # last return 1 + 0.9*2 = 2.8; first 0.9 * 2.8
    np.testing.assert_allclose(returns, [2.52, 2.8], rtol=1e-6)


def test_collection_that_was_cut_bootstraps_like_a_truncation() -> None:
    values = np.array([0.5, 0.5, 2.0], np.float32)
    cut = trajectory_advantages(make_trajectory([0.0, 1.0]), values, gamma=0.9, lam=0.95)
    truncated = trajectory_advantages(make_trajectory([0.0, 1.0], truncated=True), values, gamma=0.9, lam=0.95)
    np.testing.assert_array_equal(cut, truncated)


def test_cutting_an_episode_in_two_does_not_change_its_advantages_when_lambda_is_0() -> None:
    values = np.array([0.1, 0.7, 0.3, 0.9, 0.2], np.float32)
    rewards = [0.0, 1.0, 0.0, 2.0]
    whole, _ = trajectory_advantages(make_trajectory(rewards, truncated=True), values, gamma=0.9, lam=0)
    first, _ = trajectory_advantages(make_trajectory(rewards[:2]), values[:3], gamma=0.9, lam=0)
    second, _ = trajectory_advantages(make_trajectory(rewards[2:], truncated=True), values[2:], gamma=0.9, lam=0)
    np.testing.assert_allclose(np.concatenate([first, second]), whole, rtol=1e-6)


def test_recursion_equals_the_sum_of_equation_16() -> None:
    rng = np.random.default_rng(0)
    rewards, values, bootstrap = rng.normal(size=30), rng.normal(size=30), 0.7
    gamma, lam = 0.97, 0.9
    following = np.append(values[1:], bootstrap)
    deltas = rewards + gamma * following - values
    expected = [sum((gamma * lam) ** (l - t) * deltas[l] for l in range(t, 30)) for t in range(30)]  # noqa: E741
    advantages, _ = advantages_and_returns(rewards, values, bootstrap, gamma=gamma, lam=lam)
    np.testing.assert_allclose(advantages, expected, rtol=1e-5)


def test_gamma_and_lambda_of_1_give_rewards_to_go_minus_values() -> None:
    advantages, returns = advantages_and_returns([1.0, 2.0, 3.0], [4.0, 5.0, 6.0], 0.0, gamma=1, lam=1)
    np.testing.assert_allclose(returns, [6.0, 5.0, 3.0])
    np.testing.assert_allclose(advantages, [2.0, 0.0, -3.0])


def test_rewards_are_scaled_before_values_are_subtracted() -> None:
    trajectory = make_trajectory([0.0, 1.0], terminated=True)
    values = np.array([0.0, 5.0, 0.0], np.float32)
    _, returns = trajectory_advantages(trajectory, values, gamma=1.0, lam=1.0, reward_scale=20.0)
    np.testing.assert_allclose(returns, [20.0, 20.0])


def test_wrong_number_of_values_is_refused() -> None:
    with pytest.raises(LearnerError, match=r"Expected 3 values for 2 turns, .* got 2\. Take them from Learner\.values"):
        trajectory_advantages(make_trajectory([0.0, 1.0]), np.zeros(2, np.float32), gamma=0.9, lam=0.9)


def test_discount_outside_of_0_to_1_is_refused() -> None:
    with pytest.raises(LearnerError, match=r"Expected gamma and lam from 0 to 1, got gamma=1\.5 and lam=0\.9"):
        advantages_and_returns([0.0], [0.0], 0.0, gamma=1.5, lam=0.9)


def test_trajectory_of_two_episodes_is_refused() -> None:
    first, second = (make_trajectory([0.0], terminated=True).turns[0] for _ in range(2))
    with pytest.raises(LearnerError, match="only the last turn of a trajectory to end its episode"):
        trajectory_advantages(Trajectory((first, second), None), np.zeros(3, np.float32), gamma=0.9, lam=0.9)
