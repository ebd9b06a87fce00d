"""Collecting, as a run wants it: environments, a collector with or without a barrier, and all closed behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from llmgym.rollout.async_collector import AsyncCollector
from llmgym.rollout.collector import Collector
from llmgym.rollout.player import EpisodeSeed
from llmgym.run.venv import make_envs, make_venv
from llmgym.text.prompt import PromptSettings
from llmgym.text.rewording import NO_REWORDING, Telling
from llmgym.types import Acting, Engine

__all__ = ["open_collector"]


@contextmanager
def open_collector(
    env_id: str,
    env_settings: Mapping[str, Any],
    num_envs: int,
    engine: Engine,
    *,
    barrier: bool,
    prompt: PromptSettings,
    acting: Acting,
    seed: int,
    episode_seed: EpisodeSeed,
    telling: Telling = NO_REWORDING,
) -> Iterator[Collector | AsyncCollector]:
    """Make environments and a collector for as long as the context lasts.

    Args:
        env_settings: keyword arguments of the environment.
        barrier: whether the environments wait for each other; what is collected is the same.
        telling: how the environments are told.

    Raises:
        EnvError: there is no such environment.
    """
    if barrier:
        venv = make_venv(env_id, num_envs, env_settings)
        told = telling.wrap_vector(venv)
        try:
            yield Collector(told, engine, prompt=prompt, acting=acting, seed=seed, episode_seed=episode_seed)
        finally:
            venv.close()
        return
    envs = [telling.wrap(env) for env in make_envs(env_id, num_envs, env_settings)]
    try:
        yield AsyncCollector(envs, engine, prompt=prompt, acting=acting, seed=seed, episode_seed=episode_seed)
    finally:
        for env in envs:
            env.close()
