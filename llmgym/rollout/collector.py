"""The collector: engine x vector environment -> trajectories. Knows neither learner nor loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from llmgym.errors import EnvError
from llmgym.text.histories import Histories
from llmgym.text.prompt import PromptSettings, make_prompt
from llmgym.types import Acting, Choice, Engine, Trajectory, Turn

__all__ = ["Collector", "EpisodeSeed"]

EpisodeSeed = Callable[[int, int], int | None]
"""(env_index, how many episodes that environment has begun) -> seed of its next episode; None: no more episodes."""


@dataclass
class _Episode:
    """What is going on in one environment of the vector."""

    seed: int
    number: int
    num_turns: int = 0
    turns: list[Turn] = field(default_factory=list)
    """Turns since the last trajectory was cut."""


class Collector:
    """Plays a vector of text environments with an engine, and hands out what happened as trajectories.

    Environments are reset one by one, each episode with a seed of its own, so the vector must be made with
    `AutoresetMode.DISABLED`. Every decision is drawn with a seed made of (seed, environment, episode, turn): what
    environment k does depends neither on how many there are nor on the order of answers.

    Args:
        venv: the vector environment.
        engine: who answers.
        prompt: how the history is told.
        acting: how an action is drawn.
        seed: of the draws.
        episode_seed: seeds of the episodes.
    """

    def __init__(
        self,
        venv: VectorEnv[Any, Any, Any],
        engine: Engine,
        *,
        prompt: PromptSettings,
        acting: Acting,
        seed: int,
        episode_seed: EpisodeSeed,
    ) -> None:
        mode = venv.metadata.get("autoreset_mode")
        if mode != AutoresetMode.DISABLED:
            raise EnvError(
                f"Expected a vector environment that does not reset by itself, found autoreset_mode={mode}. "
                "Make it with vector_kwargs={'autoreset_mode': AutoresetMode.DISABLED}."
            )
        self._venv = venv
        self._engine = engine
        self._acting = acting
        self._seed = seed
        self._episode_seed = episode_seed
        self._histories = Histories(
            venv.num_envs, lambda: make_prompt(prompt, engine.tokenizer, engine.max_context_tokens)
        )
        self._episodes: list[_Episode | None] = [None] * venv.num_envs
        self._num_begun = [0] * venv.num_envs
        self._begin(list(range(venv.num_envs)))

    def collect(self, num_steps: int) -> list[Trajectory]:
        """Take num_steps steps in every environment; unfinished episodes are cut, and go on in the next call.

        Returns:
            trajectories in the order of environments and time; their turns add up to num_steps x num_envs.
        """
        finished: list[list[Trajectory]] = [[] for _ in self._episodes]
        for _ in range(num_steps):
            for env_index, trajectory in self._step():
                finished[env_index].append(trajectory)
        for env_index, episode in enumerate(self._episodes):
            if episode is not None and episode.turns:
                finished[env_index].append(self._cut(env_index, episode))
        return [trajectory for trajectories in finished for trajectory in trajectories]

    def episodes(self) -> Iterator[Trajectory]:
        """Play until every environment has run out of episode seeds; yield each whole episode when it ends."""
        while any(episode is not None for episode in self._episodes):
            for _, trajectory in self._step():
                yield trajectory

    def _step(self) -> list[tuple[int, Trajectory]]:
        """Take one step in every environment that plays; return the trajectories of the episodes that ended."""
        playing = [env_index for env_index, episode in enumerate(self._episodes) if episode is not None]
        choices = self._choose(playing)
        actions = self._env_actions(playing, choices)
        prompts = [self._histories.prompts[env_index].token_ids for env_index in playing]
        observations, rewards, terminations, truncations, infos = self._venv.step(actions)
        ended = []
        for env_index, choice, prompt_ids in zip(playing, choices, prompts, strict=True):
            episode = self._playing(env_index)
            terminated, truncated = bool(terminations[env_index]), bool(truncations[env_index])
            episode.turns.append(
                Turn(
                    prompt_ids=prompt_ids,
                    candidate_ids=choice.candidate_ids,
                    action=choice.index,
                    logprob=choice.logprob,
                    reward=float(rewards[env_index]),
                    terminated=terminated,
                    truncated=truncated and not terminated,
                    policy_version=choice.policy_version,
                )
            )
            episode.num_turns += 1
            if not terminated:
                self._histories.extend(env_index, choice.index, observations, infos)
            if terminated or truncated:
                ended.append((env_index, self._cut(env_index, episode)))
        over = np.logical_or(terminations, truncations)
        self._begin(np.flatnonzero(over).tolist())
        return ended

    def _choose(self, playing: list[int]) -> list[Choice]:
        seeds = []
        for env_index in playing:
            episode = self._playing(env_index)
            seeds.append(_pack(self._seed, env_index, episode.number, episode.num_turns))
        return self._engine.choose(
            [self._histories.prompts[env_index].token_ids for env_index in playing],
            [self._histories.candidate_ids[env_index] for env_index in playing],
            how=self._acting.how,
            temperature=self._acting.temperature,
            seed=seeds,
            normalize=self._acting.normalize,
        )

    def _env_actions(self, playing: list[int], choices: list[Choice]) -> Any:
        """Translate choices into the vector's actions; environments that are done get any valid one."""
        if not hasattr(self._venv.single_action_space, "n"):
            texts = [actions[0] for actions in self._histories.actions]
            for env_index, choice in zip(playing, choices, strict=True):
                texts[env_index] = self._histories.actions[env_index][choice.index]
            return tuple(texts)
        actions = np.zeros(self._venv.num_envs, dtype=np.int64)
        for env_index, choice in zip(playing, choices, strict=True):
            actions[env_index] = choice.index
        return actions

    def _begin(self, ended: list[int]) -> None:
        """Reset environments that ended with the seeds of their next episodes; those without one stop playing.

        A vector steps all its environments, so one that no longer plays goes on idly, and is reset like the others.
        """
        seeds = [0] * self._venv.num_envs
        for env_index in ended:
            number = self._num_begun[env_index]
            seed = self._episode_seed(env_index, number)
            self._episodes[env_index] = None
            if seed is not None:
                self._episodes[env_index] = _Episode(seed, number)
                self._num_begun[env_index] += 1
                seeds[env_index] = seed
        if not ended or not any(self._episodes):
            return
        mask = np.zeros(self._venv.num_envs, dtype=np.bool_)
        mask[ended] = True
        options = {} if mask.all() else {"reset_mask": mask}
        # A vector takes a list of seeds too, which its annotation does not say (gymnasium 1.4).
        observations, infos = self._venv.reset(seed=seeds, options=options)  # type: ignore[arg-type]
        for env_index in ended:
            self._histories.begin(env_index, observations, infos)

    def _cut(self, env_index: int, episode: _Episode) -> Trajectory:
        """Hand out the turns since the last cut, with the prompt to bootstrap from unless the episode terminated."""
        turns, episode.turns = tuple(episode.turns), []
        final = None if turns[-1].terminated else self._histories.prompts[env_index].token_ids
        return Trajectory(turns, final, env_index, episode.seed)

    def _playing(self, env_index: int) -> _Episode:
        episode = self._episodes[env_index]
        assert episode is not None, "only environments that play are stepped"
        return episode


def _pack(seed: int, env_index: int, episode: int, turn: int) -> int:
    """Pack what names a decision into one integer, which seeds its draw."""
    return ((seed << 24 | env_index) << 32 | episode) << 24 | turn
