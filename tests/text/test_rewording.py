"""Rewording: other words for the same environment, for single environments and vectors, actions in their places."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import llmgym  # noqa: F401  (registers the environments)
from llmgym.errors import EnvError
from llmgym.text.rewording import RewordEnv, Rewording, RewordVectorEnv

LEVEL = "llmgym/BabyAI-GoToLocal-v0"
REWORDING = Rewording(words={"key": "chair", "red": "vermilion", "go to": "walk to"}, actions={"pick up": "take"})


class Door(gym.Env):  # type: ignore[type-arg]
    """A text environment whose actions are texts."""

    def __init__(self) -> None:
        self.taken: list[str] = []

    def reset(self, *, seed=None, options=None):
        return {"mission": "open the red door", "text": "a red door"}, {"actions": ("pick up key", "pick up")}

    def step(self, action):
        self.taken.append(action)
        return {"mission": "open the red door", "text": ""}, 1.0, True, False, {"actions": ()}


def test_words_are_replaced_in_order_wherever_they_stand() -> None:
    assert Rewording({"ab": "c", "c": "d"}).text("abc keyed") == "dd keyed"


def test_whole_actions_are_renamed_and_missions_keep_their_words() -> None:
    rewording = Rewording(actions={"pick up": "take"})
    assert rewording.action("pick up") == "take"
    assert rewording.action("pick up the key") == "pick up the key"
    assert rewording.text("pick up the key") == "pick up the key"


def test_an_environment_is_told_in_other_words_and_does_the_same() -> None:
    plain, told = gym.make(LEVEL), RewordEnv(gym.make(LEVEL), REWORDING)
    observation, _ = plain.reset(seed=4)
    other, other_info = told.reset(seed=4)
    assert other["mission"] == observation["mission"].replace("key", "chair").replace("red", "vermilion").replace(
        "go to", "walk to"
    )
    assert other_info["actions"] == ("turn left", "turn right", "go forward", "take", "drop", "toggle")
    for action in (2, 1, 2, 3):
        observation, reward, _, _, _ = plain.step(action)
        other, other_reward, _, _, _ = told.step(action)
        assert other["text"] == observation["text"].replace("key", "chair").replace("red", "vermilion")
        assert other_reward == reward


def test_a_vector_is_told_as_its_environments_are() -> None:
    mode = AutoresetMode.DISABLED
    venv = RewordVectorEnv(
        gym.make_vec(LEVEL, num_envs=3, vectorization_mode="vector_entry_point", autoreset_mode=mode), REWORDING
    )
    envs = [RewordEnv(gym.make(LEVEL), REWORDING) for _ in range(3)]
    texts, infos = venv.reset(seed=7)
    firsts = [env.reset(seed=7 + index) for index, env in enumerate(envs)]
    assert texts["mission"] == tuple(observation["mission"] for observation, _ in firsts)
    assert tuple(infos["actions"]) == tuple(info["actions"] for _, info in firsts)
    texts, *_, infos = venv.step(np.array([0, 1, 2]))
    seconds = [env.step(action) for action, env in enumerate(envs)]
    assert texts["text"] == tuple(observation["text"] for observation, *_ in seconds)
    assert infos["actions"][1][3] == "take"
    mask = np.array([False, True, False])
    _, infos = venv.reset(seed=[0, 1, 2], options={"reset_mask": mask})
    assert infos["actions"][0] is None
    assert infos["actions"][1][3] == "take"


def test_where_actions_are_texts_the_new_one_is_taken() -> None:
    door = Door()
    told = RewordEnv(door, REWORDING)
    observation, info = told.reset()
    assert observation == {"mission": "open the vermilion door", "text": "a vermilion door"}
    assert info["actions"] == ("pick up chair", "take")
    told.step("pick up chair")
    told.reset()
    told.step("take")
    assert door.taken == ["pick up key", "pick up"]
    told.reset()
    with pytest.raises(EnvError, match=r"Expected an action among \['pick up chair', 'take'\], found 'pick up'"):
        told.step("pick up")
