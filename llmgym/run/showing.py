"""Who shows what is cloned, and in which order: the expert of an environment, in lessons, or a dataset."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from copy import deepcopy
from itertools import count, islice
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from llmgym.config import RunConfig
from llmgym.envs.toy_text.planner import has_table, planner
from llmgym.errors import ConfigError
from llmgym.rollout.clone_settings import Lesson
from llmgym.rollout.datasets import dataset_spec, read_dataset
from llmgym.rollout.demonstrations import Expert, demonstrate
from llmgym.rollout.recording import Episode
from llmgym.run.seeds import training_seed
from llmgym.run.venv import NO_SETTINGS, make_env

__all__ = [
    "check_dataset",
    "check_demonstrations",
    "demonstration_seeds",
    "env_spec",
    "faded",
    "find_expert",
    "shown_episodes",
]

DEMONSTRATION_STREAM = 2**31
LESSON_STREAM = 2**31 + 3
"""Name the seeds of demonstrations, apart from those of collected episodes."""


def find_expert(env_id: str, env_settings: Mapping[str, Any] = NO_SETTINGS) -> Expert | None:
    """Return the expert of an environment; None where nobody knows how to solve it.

    BabyAI's levels have a bot, and a world whose rules are a table, such as FrozenLake, a planner.

    Raises:
        EnvError: there is no such environment, or it knows no such setting.
    """
    with closing(make_env(env_id, env_settings)) as env:
        if "text" not in getattr(env.observation_space, "spaces", {}):
            return None
        if env_id.startswith("llmgym/BabyAI-"):
            from llmgym.envs.babyai.bot import Bot

            return Expert("bot", lambda env: Bot(env).act)
        if has_table(env):
            return Expert("planner", planner(env), is_optimal=True)
    return None


def check_demonstrations(config: RunConfig) -> None:
    """Refuse a configuration that wants to clone what nobody shows.

    Raises:
        ConfigError: the environment has no expert, or the dataset is of another environment.
        DatasetError: there is no such dataset.
    """
    clone = config.clone
    if clone.dataset is not None:
        check_dataset(config, clone.dataset, "clone.dataset")
    shown = [lesson.env_settings for lesson in clone.lessons]
    if clone.rounds or (clone.episodes and clone.dataset is None):
        shown.append({})
    for changes in shown:
        if find_expert(config.env, {**config.env_settings, **changes}) is None:
            raise ConfigError(
                f"Expected an environment with an expert to clone, found {config.env!r}, which has none. Set "
                "clone.episodes=0 and leave lessons and rounds out, or set clone.dataset to demonstrations."
            )


def check_dataset(config: RunConfig, name: str, key: str) -> None:
    """Refuse a dataset of another environment than a run's.

    Args:
        config: of the run.
        name: of the dataset, or the path of its folder.
        key: the setting that names it.

    Raises:
        ConfigError: the environments differ.
        DatasetError: there is no such dataset.
    """
    found, wanted = dataset_spec(name), env_spec(config.env, config.env_settings)
    if (found.id, found.kwargs) != (wanted.id, wanted.kwargs):
        raise ConfigError(
            f"Expected a dataset of {wanted.id} {wanted.kwargs} to learn from, found one of {found.id} {found.kwargs} "
            f"in {name}. Set env and env_settings to these, or {key} to another."
        )


def demonstration_seeds(seed: int) -> Iterator[int]:
    """Yield the seeds of the episodes that experts show, from the seed of the run."""
    return (training_seed(seed, DEMONSTRATION_STREAM, number) for number in count())


def env_spec(env_id: str, env_settings: Mapping[str, Any]) -> EnvSpec:
    """Return what makes an environment with its settings again, as a file can hold it."""
    spec = deepcopy(gym.spec(env_id))
    spec.kwargs = json.loads(json.dumps({**spec.kwargs, **env_settings}))
    return spec


def shown_episodes(config: RunConfig) -> Iterator[Episode]:
    """Yield the episodes of the lessons and, behind them, of the dataset or else of the expert."""
    clone = config.clone
    shown = [
        _shown_by_expert(config, lesson, _lesson_seeds(config.seed, number))
        for number, lesson in enumerate(clone.lessons)
    ]
    if clone.dataset is not None:
        shown.append(read_dataset(clone.dataset, clone.episodes or None))
    elif clone.episodes:
        shown.append(_shown_by_expert(config, Lesson(clone.episodes), demonstration_seeds(config.seed)))
    for number in faded([*(lesson.episodes for lesson in clone.lessons), clone.episodes]):
        # A dataset may hold fewer than it was asked for.
        yield from islice(shown[number], 1)
    # And where it is shown whole, it was asked for no number.
    yield from shown[-1] if shown else ()


def faded(counts: Sequence[int]) -> list[int]:
    """Return, for every episode to show, the number of its lesson: the last third of one among the first of the next.

    >>> faded([6, 3])
    [0, 0, 0, 0, 0, 1, 0, 1, 1]
    """
    places = [
        (number + 1.5 * (episode + 0.5) / count, number)
        for number, count in enumerate(counts)
        for episode in range(count)
    ]
    return [number for _, number in sorted(places)]


def _lesson_seeds(seed: int, lesson: int) -> Iterator[int]:
    """Yield the seeds of the episodes of a lesson."""
    return (training_seed(seed, LESSON_STREAM, lesson, number) for number in count())


def _shown_by_expert(config: RunConfig, lesson: Lesson, seeds: Iterator[int]) -> Iterator[Episode]:
    """Yield the episodes of a lesson, which the environment's expert plays."""
    env_settings = {**config.env_settings, **lesson.env_settings}
    slips = config.clone.slips if lesson.slips is None else lesson.slips
    expert = find_expert(config.env, env_settings)
    assert expert is not None, "looked for when the run was opened"
    with closing(make_env(config.env, env_settings)) as env:
        yield from demonstrate(env, expert, seeds, lesson.episodes, slips=slips)
