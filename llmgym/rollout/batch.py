"""From trajectories and values to the batch the learner learns from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmgym.algorithms.algorithm import Algorithm, Bootstraps, EstimatesAdvantages, credit_of
from llmgym.algorithms.gae import estimate_with_critic
from llmgym.algorithms.ppo import PPO
from llmgym.algorithms.returns import ReturnSettings
from llmgym.errors import LearnerError
from llmgym.types import Batch, FloatArray, Steps, Trajectory

__all__ = ["ReturnSettings", "make_batch"]

BY_CRITIC = PPO()


def make_batch(
    trajectories: Sequence[Trajectory],
    values: Sequence[FloatArray] | None,
    settings: ReturnSettings,
    algorithm: Algorithm = BY_CRITIC,
) -> Batch:
    """Estimate advantages and returns unit by unit, and lay the turns end to end.

    Args:
        trajectories: at least one.
        values: for each, float32 (num_units + 1,): the value of every unit's state, then of the state after the last
            turn, which counts where the trajectory was truncated or cut, and never where it terminated. None for
            algorithms that need none.
        algorithm: who learns from it, and may estimate advantages in its own way; with a critic, turn by turn, if left
            out.

    Returns:
        the batch; without a turn where the algorithm keeps no trajectory.

    Raises:
        LearnerError: there is no trajectory, or the algorithm needs values and there are none.
    """
    if not trajectories:
        raise LearnerError("Expected at least one trajectory to learn from, got none. Collect some first.")
    if isinstance(algorithm, EstimatesAdvantages):
        estimates = algorithm.estimate(trajectories, values, settings)
    elif values is not None:
        estimates = estimate_with_critic(trajectories, values, settings, credit_of(algorithm))
    else:
        raise LearnerError(
            f"Expected values to estimate advantages with for {type(algorithm).__name__}, got none. Take them from "
            "Learner.values."
        )
    kept = range(len(trajectories)) if estimates.kept is None else estimates.kept
    foreseen = [np.zeros(len(each), np.float32) for each in estimates.returns]
    if values is not None:
        foreseen = [value[:-1] for value in values]
    return Batch(
        turns=tuple(turn for position in kept for turn in trajectories[position].turns),
        advantages=_laid_out([estimates.advantages[position] for position in kept]),
        returns=_laid_out([estimates.returns[position] for position in kept]),
        values=_laid_out([foreseen[position] for position in kept]),
        trajectory_turns=tuple(len(trajectories[position].turns) for position in kept),
        metrics=estimates.metrics,
        steps=_steps([trajectories[one] for one in kept], settings) if isinstance(algorithm, Bootstraps) else None,
    )


def _steps(trajectories: Sequence[Trajectory], settings: ReturnSettings) -> Steps:
    """Say what followed every turn: the next one's prompt, or, behind the last, that of the state it led to."""
    rewards = [turn.reward * settings.reward_scale for one in trajectories for turn in one.turns]
    next_prompts = [
        prompt
        for one in trajectories
        for prompt in (
            *(turn.prompt_ids for turn in one.turns[1:]),
            None if one.turns[-1].terminated else one.final_prompt_ids,
        )
    ]
    return Steps(np.array(rewards, np.float32), settings.gamma, tuple(next_prompts))


def _laid_out(columns: Sequence[FloatArray]) -> FloatArray:
    """Lay the units of trajectories end to end."""
    return np.concatenate(columns).astype(np.float32) if columns else np.zeros(0, np.float32)
