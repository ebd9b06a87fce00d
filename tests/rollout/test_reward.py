"""Rewards that are none: refused where they are taken, with environment, step and value."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from llmgym.engine.scripted_engine import ScriptedEngine
from llmgym.errors import EnvError
from llmgym.rollout.async_collector import AsyncCollector
from llmgym.rollout.collector import Collector
from llmgym.rollout.demonstrations import Expert, demonstrate
from llmgym.rollout.reward import RewardsChecked, checked_reward
from llmgym.text import PromptSettings
from llmgym.types import Acting

MakeEnv = Callable[[], gym.Env[Any, Any]]


class Odd(gym.Wrapper[Any, Any, Any, Any]):
    """Gives an odd reward at the third step of every episode."""

    def __init__(self, env: gym.Env[Any, Any], reward: Any) -> None:
        super().__init__(env)
        self.odd, self.num_steps = reward, 0

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        self.num_steps = 0
        return self.env.reset(**options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.num_steps += 1
        return observation, self.odd if self.num_steps == 3 else reward, terminated, truncated, info


def settings() -> dict[str, Any]:
    return {"prompt": PromptSettings(), "acting": Acting(), "seed": 3, "episode_seed": lambda env, number: number}


def stays() -> ScriptedEngine:
    return ScriptedEngine(lambda context, candidate: 0.0 if "stay" in candidate else -50.0)


@pytest.mark.parametrize("reward", [1, 0.5, True, np.float32(2.0), np.int64(3), np.bool_(True), np.array(1.5)])
def test_numbers_are_rewards(reward: Any, make_text_env: MakeEnv) -> None:
    number = checked_reward(reward, make_text_env(), 0, 0)
    assert type(number) is float
    assert number == float(reward)


@pytest.mark.parametrize("reward", [math.nan, math.inf, -math.inf, None, "1", b"1", [1.0], object(), np.float64("nan")])
def test_what_is_no_finite_number_is_no_reward(reward: Any, make_text_env: MakeEnv) -> None:
    with pytest.raises(EnvError) as caught:
        checked_reward(reward, make_text_env(), 4, 7)
    assert str(caught.value) == (
        f"Expected a finite number as the reward of Line, found {reward!r} ({type(reward).__name__}) in environment 4 "
        "at step 7 of its episode. Correct the step() of the environment."
    )


def test_the_collector_refuses_it(make_text_env: MakeEnv) -> None:
    def make(env_index: int) -> MakeEnv:
        return lambda: Odd(make_text_env(), math.nan) if env_index == 1 else make_text_env()

    venv = SyncVectorEnv([make(env_index) for env_index in range(3)], autoreset_mode=AutoresetMode.DISABLED)
    with pytest.raises(
        EnvError, match=r"found np\.float64\(nan\) \(float64\) in environment 1 at step 2 of its episode"
    ):
        Collector(venv, stays(), **settings()).collect(5)


@pytest.mark.parametrize("reward", [None, "0.5"])
def test_a_vector_of_watched_environments_refuses_what_it_would_make_a_number_of(
    reward: Any, make_text_env: MakeEnv
) -> None:
    makes = [lambda: RewardsChecked(Odd(make_text_env(), reward), 1)] * 2
    venv = SyncVectorEnv(makes, autoreset_mode=AutoresetMode.DISABLED)
    with pytest.raises(EnvError, match=rf"found {reward!r} \({type(reward).__name__}\) in environment 1 at step 2 of"):
        Collector(venv, stays(), **settings()).collect(5)


def test_the_collector_without_a_barrier_refuses_it(make_text_env: MakeEnv) -> None:
    envs = [make_text_env(), Odd(make_text_env(), None)]
    with pytest.raises(EnvError, match=r"Line, found None \(NoneType\) in environment 1 at step 2 of its episode"):
        AsyncCollector(envs, stays(), **settings()).collect(5)


def test_a_demonstration_with_it_is_refused(make_text_env: MakeEnv) -> None:
    expert = Expert("stayer", lambda env: lambda *_: 0, is_optimal=True)
    with pytest.raises(EnvError, match=r"Line, found 'much' \(str\) at step 2 of its episode"):
        list(demonstrate(Odd(make_text_env(), "much"), expert, iter(range(9)), 1))
