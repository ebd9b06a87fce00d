"""The first learner of a run: a model with heads that, where the recipe asks for it, has cloned an expert.

The expert plays on the spot, or has played before: then its episodes are read from a dataset.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from copy import deepcopy
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec

from llmgym.config import RunConfig
from llmgym.envs.toy_text.planner import has_table, planner
from llmgym.errors import ConfigError
from llmgym.rollout.batch import ReturnSettings, make_batch
from llmgym.rollout.datasets import dataset_spec, read_dataset
from llmgym.rollout.demonstrations import Expert, Speaker, demonstrate, retell
from llmgym.rollout.recording import Episode
from llmgym.run.report import Reporter
from llmgym.run.seeds import training_seed
from llmgym.run.venv import NO_SETTINGS, make_env
from llmgym.types import Batch, FloatArray, Trajectory

if TYPE_CHECKING:
    from llmgym.learner import Learner

__all__ = [
    "check_demonstrations",
    "clone_expert",
    "demonstration_seeds",
    "env_spec",
    "expert_speaker",
    "find_expert",
    "shown_batch",
]

DEMONSTRATION_STREAM = 2**31
LESSON_STREAM = 2**31 + 3
"""Name the seeds of demonstrations, apart from those of collected episodes."""
EPISODES_A_PART = 500
"""Demonstrations that are learned from between two reports, and two falls of the learning rate."""


def clone_expert(config: RunConfig, model: str, reporter: Reporter, log: Path) -> Learner:
    """Make the learner, and let it clone demonstrations: of the environment's expert, or those of a dataset.

    Args:
        config: of the run.
        model: folder or hub id.
        reporter: who watches.
        log: file for the metrics, one JSON object a part of the demonstrations.
    """
    # Torch takes seconds to import; whoever only asks for the expert does without.
    from llmgym.algorithms import BehaviourCloning
    from llmgym.learner import Learner, ValueHead

    clone, settings = config.clone, config.learner
    learner = Learner(
        model,
        lora=settings.lora,
        load_in_4bit=settings.load_in_4bit,
        heads={"value": ValueHead},
        algorithm=BehaviourCloning(1, clone.minibatch_turns, clone.value_coef, clone.text_coef),
        acting=config.acting,
        learning_rate=clone.learning_rate,
        head_learning_rate=settings.head_learning_rate,
        weight_decay=settings.weight_decay,
        optimizer=clone.optimizer,
        max_grad_norm=settings.max_grad_norm,
        num_threads=settings.num_threads,
        max_tokens_per_microbatch=settings.max_tokens_per_microbatch,
        seed=config.seed,
    )
    if not clone.is_wanted:
        return learner
    trajectories = _demonstrations(config, learner, reporter)
    firsts = range(0, len(trajectories), EPISODES_A_PART)
    parts = [trajectories[first : first + EPISODES_A_PART] for first in firsts] * clone.epochs
    reporter.stage("cloning", clone.epochs * len(trajectories), "episodes")
    num_done = 0
    with log.open("w", encoding="utf-8") as file:
        for number, part in enumerate(parts, start=1):
            learner.scale_learning_rate(clone.learning_rate_factor(number, len(parts) + clone.rounds))
            num_done += len(part)
            metrics = learner.update(shown_batch(part, learner, config.returns))
            file.write(json.dumps({"episodes": num_done, **metrics}) + "\n")
            file.flush()
            reporter.advance(num_done, metrics)
    return learner


def shown_batch(trajectories: Sequence[Trajectory], learner: Learner, settings: ReturnSettings) -> Batch:
    """Return demonstrations as a batch whose returns are what was got, discounted, and no estimate of it.

    Only where an episode was cut off does what would have followed have to be estimated.
    """
    cut = [trajectory for trajectory in trajectories if not trajectory.turns[-1].terminated]
    estimates = iter(learner.values(cut) if cut else [])
    values: list[FloatArray] = []
    for trajectory in trajectories:
        value: FloatArray = np.zeros(len(trajectory.turns) + 1, np.float32)
        if not trajectory.turns[-1].terminated:
            value[-1] = next(estimates)[-1]
        values.append(value)
    return make_batch(trajectories, values, replace(settings, lam=1.0))


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
        found, wanted = dataset_spec(clone.dataset), env_spec(config.env, config.env_settings)
        if (found.id, found.kwargs) != (wanted.id, wanted.kwargs):
            raise ConfigError(
                f"Expected a dataset of {wanted.id} {wanted.kwargs} to clone, found one of {found.id} {found.kwargs} "
                f"in {clone.dataset}. Set env and env_settings to these, or clone.dataset to another."
            )
    shown = [lesson.env_settings for lesson in clone.lessons]
    if clone.rounds or (clone.episodes and clone.dataset is None):
        shown.append({})
    for changes in shown:
        if find_expert(config.env, {**config.env_settings, **changes}) is None:
            raise ConfigError(
                f"Expected an environment with an expert to clone, found {config.env!r}, which has none. Set "
                "clone.episodes=0 and leave lessons and rounds out, or set clone.dataset to demonstrations."
            )


def expert_speaker(config: RunConfig, learner: Learner) -> Speaker:
    """Return who tells an expert's episodes as the learner would have."""
    return Speaker(learner.tokenizer, config.prompt, config.acting, learner.max_context_tokens)


def demonstration_seeds(seed: int) -> Iterator[int]:
    """Yield the seeds of the episodes that experts show, from the seed of the run."""
    return (training_seed(seed, DEMONSTRATION_STREAM, number) for number in count())


def env_spec(env_id: str, env_settings: Mapping[str, Any]) -> EnvSpec:
    """Return what makes an environment with its settings again, as a file can hold it."""
    spec = deepcopy(gym.spec(env_id))
    spec.kwargs = json.loads(json.dumps({**spec.kwargs, **env_settings}))
    return spec


def _demonstrations(config: RunConfig, learner: Learner, reporter: Reporter) -> list[Trajectory]:
    """Return demonstrations as the learner would have told them."""
    clone = config.clone
    is_all = clone.dataset is not None and clone.episodes == 0
    num_lessons = sum(lesson.episodes for lesson in clone.lessons)
    reporter.stage("demonstrations", None if is_all else num_lessons + clone.episodes, "episodes")
    trajectories: list[Trajectory] = []
    for trajectory in retell(_episodes(config), expert_speaker(config, learner)):
        trajectories.append(trajectory)
        reporter.advance(len(trajectories), {"return": sum(turn.reward for turn in trajectory.turns)})
    return trajectories


def _episodes(config: RunConfig) -> Iterator[Episode]:
    """Yield the episodes of the lessons and, behind them, of the dataset or else of the expert."""
    clone = config.clone
    shown = [
        _shown_by_expert(config, lesson.env_settings, _lesson_seeds(config.seed, number), lesson.episodes)
        for number, lesson in enumerate(clone.lessons)
    ]
    counts = [lesson.episodes for lesson in clone.lessons]
    if clone.dataset is None:
        shown.append(_shown_by_expert(config, {}, demonstration_seeds(config.seed), clone.episodes))
    else:
        shown.append(read_dataset(clone.dataset, clone.episodes or None))
    for number in faded([*counts, clone.episodes]):
        yield next(shown[number])
    # A dataset that is shown whole has no number of episodes.
    yield from shown[-1]


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


def _shown_by_expert(
    config: RunConfig, changes: Mapping[str, Any], seeds: Iterator[int], num_episodes: int
) -> Iterator[Episode]:
    """Yield episodes of the environment's expert, with changes to the environment's settings."""
    env_settings = {**config.env_settings, **changes}
    expert = find_expert(config.env, env_settings)
    assert expert is not None, "looked for when the run was opened"
    with closing(make_env(config.env, env_settings)) as env:
        yield from demonstrate(env, expert, seeds, num_episodes, slips=config.clone.slips)
