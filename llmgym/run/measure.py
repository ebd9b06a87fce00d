"""Measuring a policy: whole episodes on given seeds, every one of them played to its end and counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llmgym.rollout.success import SuccessRate, wilson_interval
from llmgym.run.collecting import open_collector
from llmgym.run.report import Reporter
from llmgym.run.seeds import HELD_OUT_SEED
from llmgym.text.prompt import PromptSettings
from llmgym.types import Acting, Engine

__all__ = ["measure_engine"]


def measure_engine(
    engine: Engine,
    env_id: str,
    env_settings: Mapping[str, Any],
    *,
    episodes: int,
    num_envs: int,
    prompt: PromptSettings,
    acting: Acting,
    first_seed: int = HELD_OUT_SEED,
    barrier: bool = True,
    reporter: Reporter,
) -> SuccessRate:
    """Play episodes first_seed, first_seed + 1, ..., and tell how many succeed (return above 0).

    Seeds are dealt to the environments in turn, and all episodes are played to their end: short ones count no more
    than long ones.

    Args:
        env_settings: keyword arguments of the environment.
        barrier: whether environments wait for each other at every step; the outcome is the same.
    """
    num_envs = min(num_envs, episodes)

    def episode_seed(env_index: int, number: int) -> int | None:
        position = number * num_envs + env_index
        return first_seed + position if position < episodes else None

    with open_collector(
        env_id,
        env_settings,
        num_envs,
        engine,
        barrier=barrier,
        prompt=prompt,
        acting=acting,
        seed=first_seed,
        episode_seed=episode_seed,
    ) as collector:
        returns: list[float] = []
        turns: list[int] = []
        num_unparsed = 0
        for trajectory in collector.episodes():
            returns.append(sum(turn.reward for turn in trajectory.turns))
            turns.append(len(trajectory.turns))
            num_unparsed += sum(not turn.is_parsed for turn in trajectory.turns)
            reporter.advance(len(returns), {"success": _success(returns), "return": float(np.mean(returns))})
    low, high = wilson_interval(sum(one > 0 for one in returns), len(returns))
    return SuccessRate(
        success=_success(returns),
        low=low,
        high=high,
        episodes=len(returns),
        mean_return=float(np.mean(returns)),
        mean_turns=float(np.mean(turns)),
        unparsed=num_unparsed / sum(turns),
    )


def _success(returns: Sequence[float]) -> float:
    return sum(one > 0 for one in returns) / len(returns)
