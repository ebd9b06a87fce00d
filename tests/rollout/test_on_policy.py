"""What is collected stands for what the policy does: every length of episode, and values beyond a time limit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from llmgym.engine.scripted_engine import ScriptedEngine
from llmgym.rollout.async_collector import AsyncCollector
from llmgym.rollout.batch import ReturnSettings, make_batch
from llmgym.rollout.collector import Collector
from llmgym.text import PromptSettings, TextEnv
from llmgym.types import Acting, Engine, Trajectory

WINDOW = PromptSettings(history="window", num_observations=1)


class Lasts(gym.Env[int, int]):
    """Episodes of one step or of fifty, one as likely as the other."""

    observation_space = gym.spaces.Discrete(2)
    action_space = gym.spaces.Discrete(1)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = 50 if self.np_random.random() < 0.5 else 1
        return 0, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        return 0, 0.0, self.left == 0, False, {}


class TwoStates(gym.Env[int, int]):
    """Goes to and fro between two states for ever; leaving the first pays 1. Observations tell the episode, too."""

    observation_space = gym.spaces.Discrete(10_000)
    action_space = gym.spaces.Discrete(1)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode, self.state = seed or 0, int(self.np_random.integers(2))
        return 2 * self.episode + self.state, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        reward = float(self.state == 0)
        self.state = 1 - self.state
        return 2 * self.episode + self.state, reward, False, False, {}


def text_env(env: gym.Env[int, int]) -> TextEnv:
    return TextEnv(env, describe=lambda seen: f"state {seen % 2} of {seen // 2}.", actions=("go",), mission="wait")


def collector_of(make: Callable[[], gym.Env[Any, Any]], num_envs: int, *, barrier: bool) -> Collector | AsyncCollector:
    settings: dict[str, Any] = {
        "prompt": WINDOW,
        "acting": Acting(),
        "seed": 3,
        "episode_seed": lambda env, number: 1000 * env + number,
    }
    if barrier:
        venv = SyncVectorEnv([make] * num_envs, autoreset_mode=AutoresetMode.DISABLED)
        return Collector(venv, ScriptedEngine(), **settings)
    return AsyncCollector([make() for _ in range(num_envs)], ScriptedEngine(), **settings)


@pytest.mark.parametrize("barrier", [True, False])
def test_short_and_long_episodes_have_the_shares_that_the_policy_gives_them(barrier: bool) -> None:
    playing = collector_of(lambda: text_env(Lasts()), 4, barrier=barrier)
    batches = [playing.collect(16) for _ in range(40)]
    assert {sum(len(one.turns) for one in batch) for batch in batches} == {64}
    lengths: dict[tuple[int, int | None], int] = {}
    for one in (one for batch in batches for one in batch):
        lengths[one.env_index, one.seed] = lengths.get((one.env_index, one.seed), 0) + len(one.turns)
    for env_index in range(4):
        # Step by step as they come: what is begun is finished, and only the last may still be under way.
        left, expected = 640, {}
        while left > 0:
            seed = 1000 * env_index + len(expected)
            env = Lasts()
            env.reset(seed=seed)
            expected[env_index, seed] = min(env.left, left)
            left -= env.left
        assert {key: length for key, length in lengths.items() if key[0] == env_index} == expected
    whole = list(lengths.values())
    assert whole.count(1) / len(whole) == pytest.approx(0.5, abs=0.12)
    assert sum(length for length in whole if length > 1) / sum(whole) == pytest.approx(50 / 51, abs=0.01)


def state_of(prompt_ids: Any) -> str:
    return ScriptedEngine().tokenizer.decode(prompt_ids).rsplit("state ", 1)[1].split(".")[0]


def learned_values(trajectories: list[Trajectory], lam: float) -> list[float]:
    """Return the values of both states that a table comes to, fitted to the returns again and again."""
    table = [0.0, 0.0]
    for _ in range(40):
        values = []
        for one in trajectories:
            prompts = [turn.prompt_ids for turn in one.turns]
            prompts += [] if one.final_prompt_ids is None else [one.final_prompt_ids]
            known = [table[int(state_of(ids)[0])] for ids in prompts]
            values.append(np.array([*known, *([0.0] if one.final_prompt_ids is None else [])], np.float32))
        batch = make_batch(trajectories, values, ReturnSettings(gamma=0.5, lam=lam, reward_scale=1.0))
        states = np.array([int(state_of(turn.prompt_ids)[0]) for turn in batch.turns])
        table = [float(batch.returns[states == state].mean()) for state in (0, 1)]
    return table


@pytest.mark.parametrize("barrier", [True, False])
@pytest.mark.parametrize("lam", [0.0, 0.95, 1.0])
def test_values_beyond_a_time_limit_are_those_of_the_world_without_one(barrier: bool, lam: float) -> None:
    # By hand: V0 = 1 + V1 / 2 and V1 = V0 / 2, so V0 = 4/3 and V1 = 2/3.
    playing = collector_of(lambda: gym.wrappers.TimeLimit(text_env(TwoStates()), 3), 2, barrier=barrier)
    trajectories = playing.collect_episodes(6)
    assert {len(one.turns) for one in trajectories} == {3}
    assert all(one.turns[-1].truncated and not one.turns[-1].terminated for one in trajectories)
    for one in trajectories:
        told = [state_of(ids) for ids in (*(turn.prompt_ids for turn in one.turns), one.final_prompt_ids)]
        first = int(told[0][0])
        assert told == [f"{(first + place) % 2} of {one.seed}" for place in range(4)], "none is of the next episode"
    assert learned_values(trajectories, lam) == pytest.approx([4 / 3, 2 / 3], abs=1e-4)
    ended = [
        Trajectory((*one.turns[:-1], replace(one.turns[-1], terminated=True, truncated=False)), None)
        for one in trajectories
    ]
    assert max(learned_values(ended, lam)) < 4 / 3 - 0.1, "taken for an end, the limit would count as worth nothing"


def test_an_answer_cut_at_its_length_neither_ends_nor_truncates_an_episode(
    reference_engine: Engine, make_text_env: Callable[[], gym.Env[Any, Any]]
) -> None:
    acting = Acting("text", max_new_tokens=2, stop=(), fallback="walk")
    venv = SyncVectorEnv([make_text_env], autoreset_mode=AutoresetMode.DISABLED)
    playing = Collector(
        venv, reference_engine, prompt=PromptSettings(), acting=acting, seed=0, episode_seed=lambda _, number: number
    )
    (one,) = playing.collect_episodes(1)
    *before, last = one.turns
    cut = [turn for turn in before if len(turn.sampled_ids) == 2 and not turn.is_ended]
    assert cut
    assert not any(turn.terminated or turn.truncated for turn in before)
    assert last.terminated or last.truncated, "by the environment"
    assert len(one.turns) > 1
