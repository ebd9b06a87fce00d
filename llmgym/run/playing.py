"""Playing whole episodes with any policy: which seeds they have, and what each came to. Knows no statistics."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llmgym.rollout.player import EpisodeSeed
from llmgym.run.agents import Agent, GivesUp
from llmgym.run.collecting import open_collector
from llmgym.run.seeds import HELD_OUT_SEED
from llmgym.run.stage import open_stage
from llmgym.text.prompt import PromptSettings
from llmgym.text.rewording import NO_REWORDING, Telling
from llmgym.types import Acting, Decides

__all__ = ["PlayedEpisode", "dealt_seeds", "endless_seeds", "play_agent", "play_engine"]


@dataclass(frozen=True, slots=True, eq=False)
class PlayedEpisode:
    """What one whole episode came to.

    Attributes:
        env_index: which environment it was played in.
        seed: what it was reset with.
        episode_return: undiscounted sum of its rewards.
        num_turns: its length.
        num_unparsed: turns whose answer named no action.
        first_prompt_ids: int32 (num_tokens,); the first prompt, where a model played.
        given_up: why the agent gave up, or why the model had to: its prompt outgrew the context; "" where none did.
    """

    env_index: int
    seed: int
    episode_return: float
    num_turns: int
    num_unparsed: int = 0
    first_prompt_ids: npt.NDArray[np.int32] | None = None
    given_up: str = ""

    @property
    def is_success(self) -> bool:
        """Whether the task was done: a return above 0 in an episode that was not given up."""
        return self.episode_return > 0 and not self.given_up


def dealt_seeds(first_seed: int, episodes: int, num_envs: int) -> EpisodeSeed:
    """Return the seeds first_seed, first_seed + 1, ..., one an episode, dealt to the environments in turn."""

    def episode_seed(env_index: int, number: int) -> int | None:
        position = number * num_envs + env_index
        return first_seed + position if position < episodes else None

    return episode_seed


def endless_seeds(first_seed: int) -> EpisodeSeed:
    """Return seeds without an end: environment k begins with first_seed + k, and goes on with held-out ones."""

    def episode_seed(env_index: int, number: int) -> int | None:
        if number == 0:
            return first_seed + env_index
        drawn = np.random.SeedSequence([first_seed, env_index, number]).generate_state(1)[0]
        return HELD_OUT_SEED + int(drawn) % HELD_OUT_SEED

    return episode_seed


def play_engine(
    engine: Decides,
    env_id: str,
    env_settings: Mapping[str, Any],
    num_envs: int,
    *,
    prompt: PromptSettings,
    acting: Acting,
    seed: int,
    episode_seed: EpisodeSeed,
    barrier: bool = True,
    telling: Telling = NO_REWORDING,
) -> Generator[PlayedEpisode]:
    """Yield the episodes of a model as they end; one whose prompt outgrows the context is given up.

    Args:
        env_settings: keyword arguments of the environment.
        prompt: how the history is told.
        acting: how an action is taken.
        seed: of the draws.
        episode_seed: seeds of the episodes.
        barrier: whether environments wait for each other at every step; the outcomes are the same.
        telling: how the environments are told.
    """
    with open_collector(
        env_id,
        env_settings,
        num_envs,
        engine,
        barrier=barrier,
        prompt=prompt,
        acting=acting,
        seed=seed,
        episode_seed=episode_seed,
        telling=telling,
        gives_up=True,
    ) as collector:
        for trajectory in collector.episodes():
            assert trajectory.seed is not None, "a collector resets every episode with a seed"
            turns = trajectory.turns
            yield PlayedEpisode(
                trajectory.env_index,
                trajectory.seed,
                sum(turn.reward for turn in turns),
                len(turns),
                sum(not turn.is_parsed for turn in turns),
                turns[0].prompt_ids if turns else None,
                trajectory.given_up,
            )


@dataclass(slots=True)
class _Episode:
    """What is going on in an environment."""

    seed: int
    total: float = 0.0
    num_turns: int = 0


def play_agent(
    agent: Agent,
    env_id: str,
    env_settings: Mapping[str, Any],
    num_envs: int,
    *,
    episode_seed: EpisodeSeed,
    telling: Telling = NO_REWORDING,
) -> Generator[PlayedEpisode]:
    """Yield the episodes of an agent as they end; what it draws in an episode comes from the episode's own seed.

    Args:
        env_settings: keyword arguments of the environment.
        episode_seed: seeds of the episodes.
        telling: how the environments are told.
    """
    num_begun = [0] * num_envs
    playing: dict[int, _Episode] = {}

    def begin(env_indices: list[int]) -> None:
        for env_index in env_indices:
            seed = episode_seed(env_index, num_begun[env_index])
            if seed is not None:
                playing[env_index] = _Episode(seed)
                num_begun[env_index] += 1
        begun = [env_index for env_index in env_indices if env_index in playing]
        stage.begin({env_index: playing[env_index].seed for env_index in begun})
        for env_index in begun:
            agent.begin(stage.situation(env_index), playing[env_index].seed)

    with closing(open_stage(env_id, env_settings, num_envs, one_by_one=agent.needs_env, telling=telling)) as stage:
        begin(list(range(num_envs)))
        while playing:
            order = sorted(playing)
            answers = agent.act([stage.situation(env_index) for env_index in order])
            given_up = {i: one for i, one in zip(order, answers, strict=True) if isinstance(one, GivesUp)}
            actions = {i: one for i, one in zip(order, answers, strict=True) if not isinstance(one, GivesUp)}
            outcomes = stage.step(actions)
            ended = []
            for env_index in order:
                episode = playing[env_index]
                reason = given_up[env_index].reason if env_index in given_up else ""
                if not reason:
                    reward, is_over = outcomes[env_index]
                    episode.total, episode.num_turns = episode.total + reward, episode.num_turns + 1
                if reason or is_over:
                    ended.append(env_index)
                    del playing[env_index]
                    yield PlayedEpisode(env_index, episode.seed, episode.total, episode.num_turns, given_up=reason)
            begin(ended)
