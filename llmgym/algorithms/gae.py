"""Generalised advantage estimation (Schulman et al. 2016, https://arxiv.org/abs/1506.02438). Numpy only.

A step is a turn: one decision of the agent, however many tokens it took.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmgym.errors import LearnerError
from llmgym.types import FloatArray, Trajectory

__all__ = ["advantages_and_returns", "trajectory_advantages"]


def advantages_and_returns(
    rewards: Sequence[float] | FloatArray,
    values: Sequence[float] | FloatArray,
    bootstrap_value: float,
    *,
    gamma: float,
    lam: float,
) -> tuple[FloatArray, FloatArray]:
    """Estimate the advantage of every turn of one stretch of an episode, and the target of its value.

    Equation 16, as the recursion A_t = delta_t + gamma * lam * A_{t+1} with delta of equation 10; the target is
    A_t + V(s_t).

    Args:
        rewards: (num_turns,); reward of each turn.
        values: (num_turns,); value of the state each turn was taken in.
        bootstrap_value: value of the state after the last turn; 0 where the episode terminated there.
        gamma: discount per turn, 0 to 1; larger looks further ahead.
        lam: lambda, 0 to 1; larger trusts rewards more and values less.

    Returns:
        Advantages and returns, float32 (num_turns,) each.

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
    deltas = np.asarray(rewards, dtype=np.float64) + gamma * state_values[1:] - state_values[:-1]
    advantages = np.zeros(len(deltas))
    carried = 0.0
    for turn in reversed(range(len(deltas))):
        carried = deltas[turn] + gamma * lam * carried
        advantages[turn] = carried
    returns = advantages + state_values[:-1]
    return advantages.astype(np.float32), returns.astype(np.float32)


def trajectory_advantages(
    trajectory: Trajectory, values: FloatArray, *, gamma: float, lam: float, reward_scale: float = 1.0
) -> tuple[FloatArray, FloatArray]:
    """Estimate the advantages and returns of a trajectory, bootstrapping unless its last turn terminated.

    A truncated episode, or one that collection cut, would have gone on: its last return goes on with the value of
    the state after it.

    Args:
        trajectory: num_turns turns.
        values: float32 (num_turns + 1,); value of each turn's state, and of the state after the last turn.
        gamma: discount per turn, 0 to 1.
        lam: lambda, 0 to 1.
        reward_scale: factor on every reward.

    Returns:
        Advantages and returns, float32 (num_turns,) each.

    Raises:
        LearnerError: there is not one value more than turns, or a turn before the last ended the episode.
    """
    turns = trajectory.turns
    if len(values) != len(turns) + 1:
        raise LearnerError(
            f"Expected {len(turns) + 1} values for {len(turns)} turns, the last one for the state after them, got "
            f"{len(values)}. Take them from Learner.values."
        )
    if any(turn.terminated or turn.truncated for turn in turns[:-1]):
        raise LearnerError(
            "Expected only the last turn of a trajectory to end its episode, but an earlier one does. Split it there."
        )
    bootstrap_value = 0.0 if turns[-1].terminated else float(values[-1])
    rewards = [turn.reward * reward_scale for turn in turns]
    return advantages_and_returns(rewards, values[:-1], bootstrap_value, gamma=gamma, lam=lam)
