"""Collecting, as a run wants it: environments, a collector with or without a barrier, and all closed behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from typing import Any

from llmgym.rollout.async_collector import AsyncCollector
from llmgym.rollout.collector import Collector
from llmgym.rollout.player import EpisodeSeed
from llmgym.run.venv import make_envs, make_venv
from llmgym.text.prompt import PromptSettings
from llmgym.text.rewording import NO_REWORDING, Telling
from llmgym.types import Acting, Decides

__all__ = ["open_collector"]


@contextmanager
def open_collector(
    env_id: str,
    env_settings: Mapping[str, Any],
    num_envs: int,
    engine: Decides,
    *,
    barrier: bool,
    prompt: PromptSettings,
    acting: Acting,
    seed: int,
    episode_seed: EpisodeSeed,
    telling: Telling = NO_REWORDING,
    keys_states: bool = False,
    gives_up: bool = False,
) -> Iterator[Collector | AsyncCollector]:
    """Make environments and a collector for as long as the context lasts.

    Args:
        env_settings: keyword arguments of the environment.
        barrier: whether the environments wait for each other; what is collected is the same.
        telling: how the environments are told.
        keys_states: whether turns know the states that they were taken in.
        gives_up: whether an episode whose prompt outgrows the model's context is given up; see `Collector`.

    Raises:
        EnvError: there is no such environment.
    """
    with ExitStack() as stack:
        if barrier:
            venv = stack.enter_context(closing(make_venv(env_id, num_envs, env_settings)))
            collector: Collector | AsyncCollector = Collector(
                telling.wrap_vector(venv),
                engine,
                prompt=prompt,
                acting=acting,
                seed=seed,
                episode_seed=episode_seed,
                keys_states=keys_states,
                gives_up=gives_up,
            )
        else:
            envs = [telling.wrap(env) for env in make_envs(env_id, num_envs, env_settings)]
            for env in envs:
                stack.enter_context(closing(env))
            collector = AsyncCollector(
                envs,
                engine,
                prompt=prompt,
                acting=acting,
                seed=seed,
                episode_seed=episode_seed,
                keys_states=keys_states,
                gives_up=gives_up,
            )
        yield collector
