"""From trajectories and values to the batch the learner learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmgym.algorithms.gae import trajectory_advantages
from llmgym.errors import LearnerError
from llmgym.types import Batch, FloatArray, Trajectory

__all__ = ["ReturnSettings", "make_batch"]


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


def make_batch(trajectories: Sequence[Trajectory], values: Sequence[FloatArray], settings: ReturnSettings) -> Batch:
    """Estimate advantages and returns turn by turn, and lay the turns end to end.

    Args:
        trajectories: at least one.
        values: for each, float32 (num_turns + 1,): the value of every turn's state, then of the state after the last
            turn, which counts where the trajectory was truncated or cut, and never where it terminated.

    Raises:
        LearnerError: there is no trajectory.
    """
    if not trajectories:
        raise LearnerError("Expected at least one trajectory to learn from, got none. Collect some first.")
    advantages, returns = [], []
    for trajectory, value in zip(trajectories, values, strict=True):
        advantage, target = trajectory_advantages(
            trajectory, value, gamma=settings.gamma, lam=settings.lam, reward_scale=settings.reward_scale
        )
        advantages.append(advantage)
        returns.append(target)
    return Batch(
        turns=tuple(turn for trajectory in trajectories for turn in trajectory.turns),
        advantages=np.concatenate(advantages),
        returns=np.concatenate(returns),
        values=np.concatenate([value[:-1] for value in values]),
    )
