"""Generalised advantage estimation (Schulman et al. 2016, https://arxiv.org/abs/1506.02438). Numpy only.

A step is a turn: one decision of the agent, however many tokens it took. Where credit is given to draws, a step is one
of them, and time passes between turns only: inside of a turn nothing is discounted and lambda is 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from llmgym.algorithms.returns import ReturnSettings
from llmgym.algorithms.units import Credit, Estimates
from llmgym.errors import LearnerError
from llmgym.types import FloatArray, Trajectory

__all__ = ["advantages_and_returns", "estimate_with_critic", "trajectory_advantages"]


def advantages_and_returns(
    rewards: Sequence[float] | npt.NDArray[np.floating],
    values: Sequence[float] | npt.NDArray[np.floating],
    bootstrap_value: float,
    *,
    gamma: float,
    lam: float,
    passes_time: npt.NDArray[np.bool_] | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Estimate the advantage of every step of one stretch of an episode, and the target of its value.

    Equation 16, as the recursion A_t = delta_t + gamma * lam * A_{t+1} with delta of equation 10; the target is
    A_t + V(s_t).

    Args:
        rewards: (num_steps,); reward of each step.
        values: (num_steps,); value of the state each step was taken in.
        bootstrap_value: value of the state after the last step; 0 where the episode terminated there.
        gamma: discount, 0 to 1; larger looks further ahead.
        lam: lambda, 0 to 1; larger trusts rewards more and values less.
        passes_time: bool (num_steps,); whether gamma and lambda count between a step and the next; everywhere if None.

    Returns:
        Advantages and returns, float32 (num_steps,) each.

    Raises:
        LearnerError: the lengths differ, or gamma or lam is outside of 0 to 1.

    >>> advantages_and_returns([0.0, 1.0], [0.5, 0.5], 0.0, gamma=0.5, lam=1.0)[1].tolist()
    [0.5, 1.0]
    """
    if len(rewards) != len(values):
        raise LearnerError(f"Expected a value for each of {len(rewards)} rewards, got {len(values)}. Give one a turn.")
    if not (0 <= gamma <= 1 and 0 <= lam <= 1):
        raise LearnerError(f"Expected gamma and lam from 0 to 1, got gamma={gamma} and lam={lam}. Change them.")
    state_values = np.append(np.asarray(values, dtype=np.float64), bootstrap_value)
    discounts = np.full(len(rewards), gamma) if passes_time is None else np.where(passes_time, gamma, 1.0)
    decays = discounts * (lam if passes_time is None else np.where(passes_time, lam, 1.0))
    deltas = np.asarray(rewards, dtype=np.float64) + discounts * state_values[1:] - state_values[:-1]
    advantages = np.zeros(len(deltas))
    carried = 0.0
    for step in reversed(range(len(deltas))):
        carried = deltas[step] + decays[step] * carried
        advantages[step] = carried
    returns = advantages + state_values[:-1]
    return advantages.astype(np.float32), returns.astype(np.float32)


def trajectory_advantages(
    trajectory: Trajectory,
    values: FloatArray,
    *,
    gamma: float,
    lam: float,
    reward_scale: float = 1.0,
    credit: Credit = "turn",
) -> tuple[FloatArray, FloatArray]:
    """Estimate the advantages and returns of a trajectory, bootstrapping unless its last turn terminated.

    A truncated episode, or one that collection cut, would have gone on: its last return goes on with the value of
    the state after it.

    Args:
        trajectory: num_units units.
        values: float32 (num_units + 1,); value of each unit's state, and of the state after the last turn.
        gamma: discount per turn, 0 to 1.
        lam: lambda, 0 to 1.
        reward_scale: factor on every reward.
        credit: what a unit is. The reward of a turn comes with the last of its draws.

    Returns:
        Advantages and returns, float32 (num_units,) each.

    Raises:
        LearnerError: there is not one value more than units, or a turn before the last ended the episode.
    """
    turns = trajectory.turns
    num_draws = [turn.num_draws if credit == "draw" else 1 for turn in turns]
    if len(values) != sum(num_draws) + 1:
        raise LearnerError(
            f"Expected {sum(num_draws) + 1} values for {sum(num_draws)} {credit}s, the last one for the state after "
            f"them, got {len(values)}. Take them from Learner.values."
        )
    if any(turn.terminated or turn.truncated for turn in turns[:-1]):
        raise LearnerError(
            "Expected only the last turn of a trajectory to end its episode, but an earlier one does. Split it there."
        )
    bootstrap_value = 0.0 if turns[-1].terminated else float(values[-1])
    rewards = np.zeros(sum(num_draws))
    last_draws = np.cumsum(num_draws) - 1
    rewards[last_draws] = [turn.reward * reward_scale for turn in turns]
    ends_turn = np.zeros(len(rewards), np.bool_)
    ends_turn[last_draws] = True
    return advantages_and_returns(rewards, values[:-1], bootstrap_value, gamma=gamma, lam=lam, passes_time=ends_turn)


def estimate_with_critic(
    trajectories: Sequence[Trajectory], values: Sequence[FloatArray], settings: ReturnSettings, credit: Credit = "turn"
) -> Estimates:
    """Estimate advantages and returns of trajectories: see `trajectory_advantages`."""
    pairs = [
        trajectory_advantages(
            trajectory,
            value,
            gamma=settings.gamma,
            lam=settings.lam,
            reward_scale=settings.reward_scale,
            credit=credit,
        )
        for trajectory, value in zip(trajectories, values, strict=True)
    ]
    return Estimates([advantages for advantages, _ in pairs], [returns for _, returns in pairs])
