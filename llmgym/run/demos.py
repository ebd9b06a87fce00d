"""Demonstrations: the episodes of an expert or of any policy, written as a Minari dataset."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count, islice, takewhile
from pathlib import Path
from typing import Any

import numpy as np

from llmgym import __version__
from llmgym.config import RunConfig
from llmgym.errors import ConfigError
from llmgym.rollout.datasets import check_free, write_dataset
from llmgym.rollout.demonstrations import Expert, demonstrate
from llmgym.rollout.minari_format import DatasetFacts
from llmgym.rollout.recording import Episode
from llmgym.rollout.success import wilson_interval
from llmgym.run.agents import EXPERTS, RANDOM, Agent, find_agent
from llmgym.run.policy import serve_policy
from llmgym.run.recorded import agent_episodes, model_episodes
from llmgym.run.report import Reporter, SilentReporter
from llmgym.run.results import EvalRow
from llmgym.run.showing import demonstration_seeds, env_spec, find_expert
from llmgym.run.venv import check_env_id, make_env

__all__ = ["DemosConfig", "DemosResult", "write_demos"]

_ENV_VERSION = re.compile(r"-v\d+$")
_NO_WORD = re.compile(r"[^\w-]+")


@dataclass(frozen=True)
class DemosConfig:
    """What to play, and where to write it.

    Attributes:
        env: id of a text environment.
        env_settings: its keyword arguments.
        episodes: how many to write.
        policy: what `llmgym eval` measures: "bot" for the environment's own expert, "random", a run folder, a baseline
            or a model.
        seed: fixes the episodes, the same for every policy, and the actions drawn. What the expert shows is what a run
            with this seed clones.
        name: of the dataset, "namespace/name-v0"; made from the environment and the policy if None.
        root: the folder of datasets; Minari's own if None.
        overwrite: replace a dataset of that name.
        temperature: of a policy's actions; as its run evaluates if None.
        slips: share of the steps, from 0 to below 1, in which an expert's hand slips and any action is taken. Its
            advice is noted, and is what is cloned.
    """

    env: str
    env_settings: dict[str, Any] = field(default_factory=dict)
    episodes: int = 100
    policy: str = "bot"
    seed: int = 0
    name: str | None = None
    root: Path | None = None
    overwrite: bool = False
    temperature: float | None = None
    slips: float = 0.0

    def __post_init__(self) -> None:
        if self.slips and self.policy not in EXPERTS:
            raise ConfigError(
                f"Expected an expert whose hand can slip, found slips={self.slips} with the policy {self.policy!r}. "
                "Set the policy to bot, or slips to 0."
            )


@dataclass(frozen=True, slots=True)
class DemosResult:
    """What was written.

    Attributes:
        name: of the dataset.
        folder: where it is.
        row: how the policy did in these episodes.
        num_steps: of all episodes.
        num_left_out: episodes that the expert failed at, which are not in the dataset.
        is_interrupted: whether the player was stopped before all episodes were there.
    """

    name: str
    folder: Path
    row: EvalRow
    num_steps: int
    num_left_out: int
    is_interrupted: bool


def write_demos(config: DemosConfig, reporter: Reporter | None = None) -> DemosResult:
    """Play episodes, and write them as a Minari dataset.

    Ctrl-C while they are played writes those that come before the first that is not over: so that short episodes are
    not more frequent than they would have been.

    Raises:
        LLMGymError: there is no such environment, policy or expert, or the dataset cannot be written.
        KeyboardInterrupt: the first episode is not over yet; nothing is written.
    """
    reporter = reporter or SilentReporter()
    try:
        check_env_id(config.env)
        player = _find_player(config)
        algorithm = player.name if player is not None else _policy_name(config.policy)
        name = config.name or f"llmgym/{_word(_ENV_VERSION.sub('', config.env))}/{_word(algorithm)}-v0"
        check_free(name, root=config.root, overwrite=config.overwrite)
        played, is_interrupted = _play(_playing(config, player, reporter), reporter)
        reporter.stage("dataset", None, "")
        facts = DatasetFacts(
            name=name,
            spec=env_spec(config.env, config.env_settings),
            algorithm=algorithm,
            author=f"llmgym {__version__}",
            description=_description(config, algorithm, len(played)),
            requirements=(f"llmgym>={__version__}",),
        )
        with closing(make_env(config.env, config.env_settings)) as env:
            folder = write_dataset(played, env, facts, root=config.root, overwrite=config.overwrite)
    finally:
        reporter.close()
    return DemosResult(
        name=name,
        folder=folder,
        row=_row(algorithm, played),
        num_steps=sum(episode.num_steps for episode in played),
        num_left_out=_num_begun(config.seed, played) - len(played),
        is_interrupted=is_interrupted,
    )


def _find_player(config: DemosConfig) -> Expert | Agent | None:
    """Return the expert or the other agent that is asked for; None where it is a model, a run, or chance.

    Raises:
        ConfigError: the environment has no expert.
    """
    if config.policy not in EXPERTS:
        # Chance is played by the scripted engine, which tells its log-probabilities.
        return None if config.policy == RANDOM else find_agent(config.policy, config.env, config.env_settings)
    expert = find_expert(config.env, config.env_settings)
    if expert is None:
        raise ConfigError(
            f"Expected an environment with an expert, found {config.env!r}, which has none. "
            "Set the policy to random, a run folder, smollm2, a model folder, or a hub id."
        )
    return expert


def _playing(config: DemosConfig, player: Expert | Agent | None, reporter: Reporter) -> Iterator[tuple[int, Episode]]:
    """Yield episodes when they end, each with its number."""
    seeds = demonstration_seeds(config.seed)
    if player is None:
        reporter.stage("engine", None, "")
        run = RunConfig(env=config.env, env_settings=config.env_settings)
        with serve_policy(config.policy, run) as served:
            reporter.stage("demonstrations", config.episodes, "episodes")
            yield from model_episodes(
                served, islice(seeds, config.episodes), seed=config.seed, temperature=config.temperature
            )
        return
    reporter.stage("demonstrations", config.episodes, "episodes")
    with closing(make_env(config.env, config.env_settings)) as env:
        if isinstance(player, Expert):
            yield from enumerate(demonstrate(env, player, seeds, config.episodes, slips=config.slips))
        else:
            yield from enumerate(agent_episodes(env, player, islice(seeds, config.episodes)))


def _play(playing: Iterator[tuple[int, Episode]], reporter: Reporter) -> tuple[list[Episode], bool]:
    """Return the episodes in the order of their numbers, up to the first that is missing, and whether any is."""
    episodes: dict[int, Episode] = {}
    num_solved, total, is_interrupted = 0, 0.0, False
    try:
        for number, episode in playing:
            episodes[number] = episode
            num_solved += _is_solved(episode)
            total += float(episode.rewards.sum())
            reporter.advance(len(episodes), {"success": num_solved / len(episodes), "return": total / len(episodes)})
    except KeyboardInterrupt:
        if 0 not in episodes:
            raise
        is_interrupted = True
    return [episodes[number] for number in takewhile(episodes.__contains__, count())], is_interrupted


def _row(name: str, episodes: Sequence[Episode]) -> EvalRow:
    num_solved = sum(_is_solved(episode) for episode in episodes)
    low, high = wilson_interval(num_solved, len(episodes))
    return EvalRow(
        name=name,
        success=num_solved / len(episodes),
        low=low,
        high=high,
        episodes=len(episodes),
        mean_return=float(np.mean([episode.rewards.sum() for episode in episodes])),
        mean_turns=float(np.mean([episode.num_steps for episode in episodes])),
    )


def _is_solved(episode: Episode) -> bool:
    """Tell whether the return is above 0, which `llmgym eval` counts as success, too."""
    return bool(episode.rewards.sum() > 0)


def _num_begun(seed: int, episodes: Sequence[Episode]) -> int:
    """Return how many seeds had been drawn when the last of these episodes began."""
    return 1 + next(number for number, drawn in enumerate(demonstration_seeds(seed)) if drawn == episodes[-1].seed)


def _policy_name(policy: str) -> str:
    """Name a policy without the folder that it is in."""
    return Path(policy).resolve().name if Path(policy).exists() else policy


def _word(text: str) -> str:
    """Return the last part of an id or path, with what a dataset's name may hold only."""
    return _NO_WORD.sub("-", text.rpartition("/")[2])


def _description(config: DemosConfig, algorithm: str, num_episodes: int) -> str:
    """Say how to play these episodes again, without the place of anything on this machine."""
    settings = "".join(f" --env-set {name}={value}" for name, value in config.env_settings.items())
    policy = config.policy if config.policy in EXPERTS else algorithm
    temperature = "" if config.temperature is None else f" --temperature {config.temperature}"
    slips = f" --slips {config.slips}" if config.slips else ""
    return (
        f"{num_episodes} episodes in text, each observation with its candidate actions. Made with: llmgym demos "
        f"--env {config.env}{settings} --policy {policy} --episodes {config.episodes} --seed {config.seed}"
        f"{temperature}{slips}"
    )
