"""Keys of states: equal for equal states, and for no others."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import llmgym  # noqa: F401
from llmgym.text.state_key import env_state_key, state_key, vector_state_keys

LEVEL = "llmgym/BabyAI-PickupLocal-v0"
LEFT, RIGHT, FORWARD, PICK_UP, DROP = range(5)


def played(*actions: int, seed: int = 0) -> int:
    """Return the key of a level's state after some actions."""
    env = gym.make(LEVEL)
    observation, _ = env.reset(seed=seed)
    for action in actions:
        observation, *_ = env.step(action)
    return env_state_key(env, observation)


def test_a_level_comes_back_to_the_same_state_by_another_way() -> None:
    assert played(LEFT) == played(RIGHT, RIGHT, RIGHT)
    assert played() == played(LEFT, RIGHT) == played(LEFT, LEFT, LEFT, LEFT)
    assert len({played(), played(LEFT), played(LEFT, LEFT), played(seed=1)}) == 4


def test_what_is_shown_stands_for_the_state_of_other_environments() -> None:
    env = gym.make("llmgym/FrozenLake-v0", is_slippery=False)
    start, _ = env.reset(seed=0)
    key = env_state_key(env, start)
    assert key == env_state_key(env, env.reset(seed=1)[0]) == state_key(start["text"])
    assert key != env_state_key(env, env.step(2)[0])


def keys_of(venv: Any, actions: np.ndarray) -> list[tuple[int, ...]]:
    """Return the keys of every environment's states, step by step."""
    observations, _ = venv.reset(seed=7)
    rows = [tuple(vector_state_keys(venv, observations))]
    for step in actions:
        observations, *_ = venv.step(step)
        rows.append(tuple(vector_state_keys(venv, observations)))
    return rows


@pytest.mark.parametrize("make_batched", [True, False])
def test_vectors_tell_states_apart_as_single_levels_do(make_batched: bool) -> None:
    actions = np.random.default_rng(0).integers(6, size=(12, 3))
    kwargs = {"autoreset_mode": AutoresetMode.DISABLED}
    if make_batched:
        venv = gym.make_vec(LEVEL, num_envs=3, vectorization_mode="vector_entry_point", **kwargs)
    else:
        venv = SyncVectorEnv([lambda: gym.make(LEVEL)] * 3, **kwargs)
    found = keys_of(venv, actions)
    singles = []
    for index in range(3):
        env = gym.make(LEVEL)
        observation, _ = env.reset(seed=7 + index)
        singles.append([env_state_key(env, observation)])
        for action in actions[:, index]:
            observation, *_ = env.step(int(action))
            singles[-1].append(env_state_key(env, observation))
    for index in range(3):
        mine = [row[index] for row in found]
        same = [[one == other for other in mine] for one in mine]
        assert same == [[one == other for other in singles[index]] for one in singles[index]]
    with pytest.raises(AttributeError):
        venv.call("no_such_method")
