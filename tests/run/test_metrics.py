"""How training episodes are counted."""

from __future__ import annotations

import numpy as np

from llmgym.run.metrics import RunningEpisodes
from llmgym.types import Trajectory, Turn


def stretch(env_index: int, rewards: list[float], *, ends: bool) -> Trajectory:
    prompt = np.array([1], dtype=np.int32)
    turns = tuple(Turn(prompt, ((1,),), 0, 0.0, reward, False, False, 0) for reward in rewards[:-1])
    last = Turn(prompt, ((1,),), 0, 0.0, rewards[-1], ends, False, 0)
    return Trajectory((*turns, last), None if ends else prompt, env_index)


def test_short_successes_do_not_count_before_the_long_failures() -> None:
    episodes = RunningEpisodes(2)
    assert episodes.ended([stretch(0, [1.0], ends=True), stretch(1, [0.0, 0.0], ends=False)]) == {"episodes": 1}
    told = episodes.ended([stretch(0, [0.0], ends=False), stretch(1, [0.0], ends=True)])
    assert told == {"episodes": 1, "success": 0.5, "return": 0.5, "episode_turns": 2.0}


def test_cut_episode_is_counted_once_with_all_its_rewards() -> None:
    episodes = RunningEpisodes(1)
    assert episodes.ended([stretch(0, [0.25, 0.25], ends=False)]) == {"episodes": 0}
    told = episodes.ended([stretch(0, [0.5], ends=True)])
    assert told == {"episodes": 1, "success": 1.0, "return": 1.0, "episode_turns": 3.0}
