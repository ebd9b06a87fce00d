"""Evaluation: whole episodes on given seeds, every one of them played to its end and counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from llmgym.engine.scripted_engine import ScriptedEngine
from llmgym.errors import EnvError, did_you_mean
from llmgym.rollout.collector import Collector
from llmgym.rollout.success import SuccessRate, wilson_interval
from llmgym.run.report import Reporter
from llmgym.text.prompt import PromptSettings
from llmgym.types import Acting, Engine

__all__ = ["HELD_OUT_SEED", "evaluate_engine", "make_venv", "random_engine", "training_seed"]

HELD_OUT_SEED = 2**30
"""Episode seeds from here on are for evaluation; those of training are below."""


def training_seed(seed: int, *stream: int) -> int:
    """Return the seed of a training episode, below `HELD_OUT_SEED`, from a run's seed and what names the episode."""
    return int(np.random.SeedSequence([seed, *stream]).generate_state(1)[0]) % HELD_OUT_SEED


def make_venv(env_id: str, num_envs: int) -> VectorEnv[Any, Any, Any]:
    """Make a vector environment whose episodes are reset one by one, with seeds of their own.

    Raises:
        EnvError: there is no such environment.
    """
    try:
        return gym.make_vec(
            env_id,
            num_envs=num_envs,
            vectorization_mode="sync",
            vector_kwargs={"autoreset_mode": AutoresetMode.DISABLED},
        )
    except (gym.error.NameNotFound, gym.error.NamespaceNotFound, gym.error.VersionNotFound, gym.error.Error) as error:
        known = [name for name in gym.registry if name.startswith("llmgym/")]
        raise EnvError(
            f"Expected the id of a text environment, found {env_id!r}.{did_you_mean(env_id, known)} "
            "`llmgym envs` lists all."
        ) from error


def random_engine() -> Engine:
    """Return an engine to which every action is equally likely."""
    return ScriptedEngine(logprob=lambda _context, _candidate: 0.0)


def evaluate_engine(
    engine: Engine,
    env_id: str,
    *,
    episodes: int,
    num_envs: int,
    prompt: PromptSettings,
    acting: Acting,
    first_seed: int = HELD_OUT_SEED,
    reporter: Reporter,
) -> SuccessRate:
    """Play episodes first_seed, first_seed + 1, ..., and tell how many succeed (return above 0).

    Seeds are dealt to the environments in turn, and all episodes are played to their end: short ones count no more
    than long ones.
    """
    num_envs = min(num_envs, episodes)

    def episode_seed(env_index: int, number: int) -> int | None:
        position = number * num_envs + env_index
        return first_seed + position if position < episodes else None

    venv = make_venv(env_id, num_envs)
    try:
        collector = Collector(venv, engine, prompt=prompt, acting=acting, seed=first_seed, episode_seed=episode_seed)
        returns: list[float] = []
        turns: list[int] = []
        for trajectory in collector.episodes():
            returns.append(sum(turn.reward for turn in trajectory.turns))
            turns.append(len(trajectory.turns))
            reporter.advance(len(returns), {"success": _success(returns), "return": float(np.mean(returns))})
    finally:
        venv.close()
    low, high = wilson_interval(sum(one > 0 for one in returns), len(returns))
    return SuccessRate(_success(returns), low, high, len(returns), float(np.mean(returns)), float(np.mean(turns)))


def _success(returns: Sequence[float]) -> float:
    return sum(one > 0 for one in returns) / len(returns)
