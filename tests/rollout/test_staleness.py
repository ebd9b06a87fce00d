"""How far behind turns are, and what is too old to learn from."""

from __future__ import annotations

import numpy as np
import pytest

from llmgym.rollout.staleness import drop_stale, mean_staleness, staleness_of
from llmgym.types import NO_VERSION, Trajectory, Turn

PROMPT = np.array([1, 2], np.int32)


def trajectory(*versions: int) -> Trajectory:
    turns = [Turn(PROMPT, ((3,),), 0, 0.0, 0.0, False, False, version) for version in versions]
    return Trajectory(tuple(turns), PROMPT)


def test_a_trajectory_is_as_old_as_its_oldest_turn() -> None:
    swapped, fresh, shown = trajectory(3, 4, 5), trajectory(5, 5), trajectory(NO_VERSION, NO_VERSION)
    every = [swapped, fresh, shown]
    assert drop_stale(every, 5, 2) == every
    assert drop_stale(every, 5, 1) == [fresh, shown]
    assert drop_stale(every, 5, 0) == [fresh, shown]
    assert drop_stale(every, 6, 0) == [shown]
    assert drop_stale(every, 6, 3) == every


def test_staleness_is_a_mean_over_turns() -> None:
    assert mean_staleness([trajectory(3, 4, 5), trajectory(5)], 5) == pytest.approx(3 / 4)
    assert mean_staleness([trajectory(NO_VERSION)], 5) == 0.0
    assert mean_staleness([], 5) == 0.0
    assert staleness_of(trajectory(2).turns[0], 5) == 3
