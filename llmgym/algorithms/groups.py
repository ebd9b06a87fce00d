"""Groups: episodes that began alike, and what each is worth among its like. Numpy only.

Where there is no critic, an episode is compared with others from the same start. Of a group in which all fare alike
nothing is learned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from llmgym.algorithms.returns import ReturnSettings, episode_returns, returns_to_go
from llmgym.algorithms.units import Credit, Estimates
from llmgym.errors import LearnerError
from llmgym.types import FloatArray, Trajectory

__all__ = [
    "are_equal",
    "centred",
    "episode_groups",
    "estimate_by_group",
    "group_metrics",
    "on_units",
    "per_group",
    "standardized",
]

_EQUAL = 1e-6
"""Returns that lie no further apart than this, or than this share of the largest, count as equal."""


def episode_groups(trajectories: Sequence[Trajectory]) -> list[list[int]]:
    """Return the positions of the episodes of every group: those that were reset with the same seed.

    Raises:
        LearnerError: a trajectory's seed is unknown, or it is no whole episode.
    """
    groups: dict[int, list[int]] = {}
    for position, trajectory in enumerate(trajectories):
        if trajectory.seed is None:
            raise LearnerError(
                f"Expected the seed of every trajectory, to find those that began alike, but trajectory {position} has "
                "none. Collect with seeds."
            )
        check_whole(trajectory, position)
        groups.setdefault(trajectory.seed, []).append(position)
    return list(groups.values())


def check_whole(trajectory: Trajectory, position: int) -> None:
    """Refuse a trajectory that does not end with its episode.

    Raises:
        LearnerError: it was cut before.
    """
    last = trajectory.turns[-1]
    if not (last.terminated or last.truncated):
        raise LearnerError(
            f"Expected whole episodes, since nothing is bootstrapped without a critic, but trajectory {position} was "
            "cut before its end. Collect with collect_episodes."
        )


def are_equal(returns: FloatArray) -> bool:
    """Tell whether the returns of a group are equal, but for rounding.

    By how far they lie apart, and not by their deviation: the mean of large equal numbers is rounded, and each of them
    would seem to differ from it.

    >>> are_equal(np.full(3, 1000.1, np.float32)), are_equal(np.array([0.0, 1e-3]))
    (True, False)
    """
    return float(np.ptp(returns)) <= _EQUAL * max(1.0, float(np.abs(returns).max()))


def centred(returns: FloatArray) -> FloatArray:
    """Return what each return of a group is above their mean, exactly 0 where they are equal.

    >>> centred(np.array([0.0, 1.0, 2.0])).tolist()
    [-1.0, 0.0, 1.0]
    """
    return np.zeros_like(returns) if are_equal(returns) else returns - returns.mean()


def standardized(returns: FloatArray) -> FloatArray:
    """Return the returns of a group shifted and scaled to mean 0 and deviation 1, exactly 0 where they are equal.

    >>> standardized(np.array([0.0, 2.0])).tolist(), standardized(np.array([3.0, 3.0])).tolist()
    ([-1.0, 1.0], [0.0, 0.0])
    """
    return np.zeros_like(returns) if are_equal(returns) else centred(returns) / returns.std()


def per_group(
    returns: FloatArray, groups: Sequence[Sequence[int]], compare: Callable[[FloatArray], FloatArray]
) -> FloatArray:
    """Compare the returns within each group.

    Args:
        returns: float32 (num_episodes,).
        groups: positions of the episodes of each.
        compare: from the returns of a group to as many advantages.

    Returns:
        float32 (num_episodes,).
    """
    advantages = np.zeros_like(returns)
    for group in groups:
        positions = np.array(group)
        advantages[positions] = compare(returns[positions])
    return advantages


def on_units(trajectory: Trajectory, per_turn: FloatArray, credit: Credit) -> FloatArray:
    """Give every unit of a trajectory what its turn has.

    Args:
        per_turn: float32 (num_turns,).
        credit: what a unit is.

    Returns:
        float32 (num_units,).
    """
    if credit == "turn":
        return per_turn
    return np.repeat(per_turn, [turn.num_draws for turn in trajectory.turns])


def estimate_by_group(
    trajectories: Sequence[Trajectory],
    settings: ReturnSettings,
    credit: Credit,
    compare: Callable[[FloatArray], FloatArray],
) -> Estimates:
    """Give all units of an episode the advantage that the episode has in its group.

    Args:
        trajectories: whole episodes.
        settings: how rewards add up.
        credit: what a unit is.
        compare: from the returns of a group to as many advantages.

    Raises:
        LearnerError: a trajectory is no whole episode, or its seed is unknown.
    """
    returns, groups = episode_returns(trajectories, settings), episode_groups(trajectories)
    advantages = per_group(returns, groups, compare)
    return Estimates(
        advantages=[
            on_units(trajectory, np.full(len(trajectory.turns), advantage, np.float32), credit)
            for trajectory, advantage in zip(trajectories, advantages, strict=True)
        ],
        returns=[on_units(trajectory, returns_to_go(trajectory, settings), credit) for trajectory in trajectories],
        metrics=group_metrics(returns, groups),
    )


def group_metrics(returns: FloatArray, groups: Sequence[Sequence[int]]) -> dict[str, float]:
    """Return the share of groups in which all fare alike, and nothing is learned."""
    equal = [are_equal(returns[np.array(group)]) for group in groups]
    return {"equal_groups": float(np.mean(equal))}
