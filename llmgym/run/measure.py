"""Measuring a policy: whole episodes on given seeds, every one of them played to its end and counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from llmgym.errors import EnvError
from llmgym.rollout.success import SuccessRate, wilson_interval
from llmgym.run.agents import Agent
from llmgym.run.playing import PlayedEpisode, dealt_seeds, play_agent, play_engine
from llmgym.run.report import Reporter
from llmgym.run.seeds import HELD_OUT_SEED
from llmgym.text.prompt import PromptSettings
from llmgym.text.rewording import NO_REWORDING, Telling
from llmgym.types import Acting, Engine

__all__ = ["check_played", "measure_agent", "measure_engine"]


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
    telling: Telling = NO_REWORDING,
    reporter: Reporter,
) -> SuccessRate:
    """Play episodes first_seed, first_seed + 1, ..., and tell how many succeed (return above 0).

    Seeds are dealt to the environments in turn, and all episodes are played to their end: short ones count no more
    than long ones.

    Args:
        env_settings: keyword arguments of the environment.
        barrier: whether environments wait for each other at every step; the outcome is the same.
        telling: how the environments are told.
    """
    num_envs = min(num_envs, episodes)
    played = play_engine(
        engine,
        env_id,
        env_settings,
        num_envs,
        prompt=prompt,
        acting=acting,
        seed=first_seed,
        episode_seed=dealt_seeds(first_seed, episodes, num_envs),
        barrier=barrier,
        telling=telling,
    )
    return _rate(played, reporter)


def measure_agent(
    agent: Agent,
    env_id: str,
    env_settings: Mapping[str, Any],
    *,
    episodes: int,
    num_envs: int,
    first_seed: int = HELD_OUT_SEED,
    telling: Telling = NO_REWORDING,
    reporter: Reporter,
) -> SuccessRate:
    """Do the same for an agent that is no language model.

    Raises:
        EnvError: it gave up every episode.
    """
    num_envs = min(num_envs, episodes)
    seeds = dealt_seeds(first_seed, episodes, num_envs)
    played = play_agent(agent, env_id, env_settings, num_envs, episode_seed=seeds, telling=telling)
    return _rate(played, reporter)


def check_played(episodes: Sequence[PlayedEpisode], reporter: Reporter) -> None:
    """Tell which episodes were given up, and refuse to make a rate of nothing else.

    Raises:
        EnvError: all were.
    """
    reasons = [one for one in episodes if one.given_up]
    if episodes and len(reasons) == len(episodes):
        raise EnvError(f"All {len(episodes)} episodes were given up. The first: {reasons[0].given_up}")
    if reasons:
        seeds = ", ".join(str(one.seed) for one in reasons[:5]) + (", ..." if len(reasons) > 5 else "")
        reporter.note(
            f"{len(reasons)} of {len(episodes)} episodes were given up and count as failures (seeds {seeds}). "
            f"The first: {reasons[0].given_up}"
        )


def _rate(played: Iterable[PlayedEpisode], reporter: Reporter) -> SuccessRate:
    episodes: list[PlayedEpisode] = []
    num_successes, total = 0, 0.0
    for one in played:
        episodes.append(one)
        num_successes += one.is_success
        total += one.episode_return
        reporter.advance(len(episodes), {"success": num_successes / len(episodes), "return": total / len(episodes)})
    check_played(episodes, reporter)
    low, high = wilson_interval(num_successes, len(episodes))
    num_turns = sum(one.num_turns for one in episodes)
    return SuccessRate(
        success=num_successes / len(episodes),
        low=low,
        high=high,
        episodes=len(episodes),
        mean_return=float(np.mean([one.episode_return for one in episodes])),
        mean_turns=num_turns / len(episodes),
        unparsed=sum(one.num_unparsed for one in episodes) / max(num_turns, 1),
        given_up=sum(bool(one.given_up) for one in episodes),
    )
