"""Advantages and returns of a batch against numbers worked by hand, and trajectories on disk."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from llmgym.errors import LearnerError
from llmgym.rollout.batch import ReturnSettings, make_batch
from llmgym.rollout.store import read_trajectories, write_trajectories
from llmgym.types import Trajectory, Turn


def turn(prompt: list[int], reward: float, *, terminated: bool = False, truncated: bool = False) -> Turn:
    return Turn(np.array(prompt, dtype=np.int32), ((1,), (2, 3)), 1, -0.5, reward, terminated, truncated, 4)


def trajectory(*, terminated: bool) -> Trajectory:
    turns = (turn([5], 0.0), turn([5, 6], 1.0, terminated=terminated, truncated=not terminated))
    return Trajectory(turns, None if terminated else np.array([5, 6, 7], dtype=np.int32), 2, 9)


def test_truncated_episode_bootstraps_from_last_value_and_terminated_does_not() -> None:
    values = [np.array([1.0, 2.0, 10.0], dtype=np.float32)] * 2
    settings = ReturnSettings(gamma=0.5, lam=1.0, reward_scale=2.0)
    batch = make_batch([trajectory(terminated=True), trajectory(terminated=False)], values, settings)
    # Terminated: returns are 2 and 0.5 * 2. Truncated: 2 + 0.5 * 10 = 7 and 0.5 * 7 = 3.5.
    np.testing.assert_allclose(batch.returns, [1.0, 2.0, 3.5, 7.0])
    np.testing.assert_allclose(batch.advantages, [0.0, 0.0, 2.5, 5.0])
    np.testing.assert_allclose(batch.values, [1.0, 2.0, 1.0, 2.0])
    assert len(batch.turns) == 4


def test_no_trajectory_is_refused() -> None:
    with pytest.raises(LearnerError, match="Expected at least one trajectory to learn from, got none"):
        make_batch([], [], ReturnSettings())


def test_trajectories_come_back_from_disk_as_they_were(tmp_path: Path) -> None:
    written = [trajectory(terminated=True), trajectory(terminated=False)]
    write_trajectories(tmp_path / "trajectories.jsonl", written)
    for one, other in zip(written, read_trajectories(tmp_path / "trajectories.jsonl"), strict=True):
        assert (one.env_index, one.seed, len(one.turns)) == (other.env_index, other.seed, len(other.turns))
        pairs = [*zip(one.turns, other.turns, strict=True)]
        for mine, theirs in pairs:
            expected, found = asdict(mine), asdict(theirs)
            np.testing.assert_array_equal(expected.pop("prompt_ids"), found.pop("prompt_ids"))
            assert found == expected
        assert (one.final_prompt_ids is None) == (other.final_prompt_ids is None)
        if one.final_prompt_ids is not None:
            np.testing.assert_array_equal(one.final_prompt_ids, other.final_prompt_ids)


def test_a_file_from_before_draws_were_known_is_read(tmp_path: Path) -> None:
    file = tmp_path / "trajectories.jsonl"
    write_trajectories(file, [trajectory(terminated=True)])
    old = re.sub(r', "draw_logprobs": \[[^]]*\], "state_key": \d+', "", file.read_text())
    assert "draw_logprobs" not in old
    assert "state_key" not in old
    file.write_text(old)
    (read,) = read_trajectories(file)
    assert [turn.num_draws for turn in read.turns] == [1] * len(read.turns)
