"""Staleness: by how many versions the policy that took a turn is behind the one that learns. Knows no learner."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmgym.types import NO_VERSION, Trajectory, Turn

__all__ = ["drop_stale", "mean_staleness", "staleness_of"]


def staleness_of(turn: Turn, version: int) -> int:
    """Return by how many versions a turn's policy is behind; 0 for a demonstration, which was no policy's.

    Args:
        version: of the policy that learns.
    """
    return 0 if turn.policy_version == NO_VERSION else version - turn.policy_version


def drop_stale(trajectories: Sequence[Trajectory], version: int, staleness: int) -> list[Trajectory]:
    """Return the trajectories that are recent enough to be learned from: whole ones, and no turn of the others.

    Args:
        trajectories: whose turns may be of several versions, where weights were swapped between two of them.
        version: of the policy that learns.
        staleness: most versions that a trajectory's oldest turn may be behind, at least 0.
    """
    return [one for one in trajectories if max(staleness_of(turn, version) for turn in one.turns) <= staleness]


def mean_staleness(trajectories: Sequence[Trajectory], version: int) -> float:
    """Return the mean over all turns of the versions that their policy is behind; 0 where there are none."""
    behind = [staleness_of(turn, version) for one in trajectories for turn in one.turns]
    return float(np.mean(behind)) if behind else 0.0
