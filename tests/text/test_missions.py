"""Missions of other episodes, in single environments and vectors: what is told changes, what is rewarded does not."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import llmgym
from llmgym.config import EvalConfig
from llmgym.errors import EnvError
from llmgym.text.missions import OtherMissions

LEVEL = "llmgym/BabyAI-GoToLocal-v0"


def find(seed: int | None, own: str) -> str:
    return f"not {own} ({seed})"


def test_an_episode_is_told_another_mission_to_its_end_and_is_what_it_was() -> None:
    plain, told = gym.make(LEVEL), OtherMissions(find).wrap(gym.make(LEVEL))
    own, _ = plain.reset(seed=4)
    observation, info = told.reset(seed=4)
    assert observation == {"mission": f"not {own['mission']} (4)", "text": own["text"]}
    assert info["actions"][0] == "turn left"
    for action in (2, 1, 2, 0):
        expected: tuple[Any, ...] = plain.step(action)
        found = told.step(action)
        assert found[0] == {"mission": f"not {own['mission']} (4)", "text": expected[0]["text"]}
        assert found[1:4] == expected[1:4]


def test_a_vector_tells_every_episode_its_own_other_mission() -> None:
    venv = OtherMissions(find).wrap_vector(
        gym.make_vec(
            LEVEL, num_envs=3, vectorization_mode="sync", vector_kwargs={"autoreset_mode": AutoresetMode.DISABLED}
        )
    )
    own = [gym.make(LEVEL).reset(seed=seed)[0]["mission"] for seed in (7, 8, 9, 20)]
    observations, _ = venv.reset(seed=[7, 8, 9])
    first = tuple(f"not {mission} ({seed})" for mission, seed in zip(own, (7, 8, 9), strict=False))
    assert observations["mission"] == first
    observations, *_ = venv.step(np.array([0, 1, 2]))
    assert observations["mission"] == first
    mask = np.array([False, True, False])
    observations, _ = venv.reset(seed=[0, 20, 0], options={"reset_mask": mask})
    assert observations["mission"] == (first[0], f"not {own[3]} (20)", first[2])
    assert venv.reset(seed=7)[0]["mission"] == first, "one seed is dealt out as gymnasium does"
    venv.close()


def test_the_bot_knows_its_mission_whatever_is_told_and_a_world_of_one_mission_has_no_other() -> None:
    config = EvalConfig("bot", LEVEL, episodes=6, num_envs=2, other_missions=True)
    result = llmgym.evaluate(config)
    assert (result.row.success, result.to_json()["other_missions"]) == (1.0, True)
    with pytest.raises(EnvError, match=r"environment with several missions, but llmgym/CartPole-v0 gave .* 100 times"):
        llmgym.evaluate(EvalConfig("random", "llmgym/CartPole-v0", episodes=2, other_missions=True))
