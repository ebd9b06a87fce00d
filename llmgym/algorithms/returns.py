"""Returns: what the rewards of a trajectory add up to, turn by turn. Numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmgym.types import FloatArray, Trajectory

__all__ = ["ReturnSettings", "episode_returns", "returns_to_go"]


@dataclass(frozen=True)
class ReturnSettings:
    """How rewards become advantages.

    Attributes:
        gamma: discount a turn, from 0 to 1; larger looks further ahead.
        lam: of generalised advantage estimation, from 0 to 1; larger trusts rewards more and values less.
        reward_scale: multiplies every reward; GLAM trains with 20.
    """

    gamma: float = 0.99
    lam: float = 0.95
    reward_scale: float = 1.0


def returns_to_go(trajectory: Trajectory, settings: ReturnSettings) -> FloatArray:
    """Return float32 (num_turns,): the discounted sum of the rewards from every turn on, nothing behind the last.

    G_t = r_t + gamma * G_{t+1} (Sutton and Barto 2018, equation 3.9).
    """
    returns: FloatArray = np.zeros(len(trajectory.turns), np.float32)
    to_go = 0.0
    for turn in reversed(range(len(returns))):
        to_go = trajectory.turns[turn].reward * settings.reward_scale + settings.gamma * to_go
        returns[turn] = to_go
    return returns


def episode_returns(trajectories: Sequence[Trajectory], settings: ReturnSettings) -> FloatArray:
    """Return float32 (num_trajectories,): the discounted return of every whole episode, seen from its start."""
    return np.array([returns_to_go(trajectory, settings)[0] for trajectory in trajectories], np.float32)
