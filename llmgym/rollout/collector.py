"""The collector: engine x vector environment -> trajectories. Knows neither learner nor loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from llmgym.errors import EnvError, PromptError
from llmgym.rollout.player import EpisodeSeed, Outcome, Player
from llmgym.rollout.reward import checked_reward
from llmgym.text.histories import Histories, History, actions_of
from llmgym.text.prompt import PromptSettings, make_prompt
from llmgym.text.state_key import vector_state_keys
from llmgym.types import Acting, Choice, Context, Decides, Parser, Trajectory

__all__ = ["Collector", "options"]


class Collector:
    """Plays a vector of text environments with an engine, and hands out what happened as trajectories.

    Environments are reset one by one, each episode with a seed of its own, so the vector must be made with
    `AutoresetMode.DISABLED`. All step together: each waits for the last answer. `AsyncCollector` does not.
    """

    def __init__(
        self,
        venv: VectorEnv[Any, Any, Any],
        engine: Decides,
        *,
        prompt: PromptSettings,
        acting: Acting,
        seed: int,
        episode_seed: EpisodeSeed,
        parse: Parser | None = None,
        keys_states: bool = False,
        gives_up: bool = False,
    ) -> None:
        """Reset all environments to their first episodes.

        Args:
            venv: the vector environment.
            engine: who answers.
            prompt: how the history is told.
            acting: how an action is taken.
            seed: of the draws.
            episode_seed: seeds of the episodes.
            parse: finds the action in a free answer; what acting says if None.
            keys_states: whether turns know the states that they were taken in, by `Turn.state_key`.
            gives_up: whether `episodes` gives up an episode whose prompt outgrows the model's context, and says so in
                `Trajectory.given_up`; otherwise that is a PromptError.

        Raises:
            EnvError: the vector resets by itself.
            PromptError: a first prompt does not fit, and nothing is to be given up.
        """
        mode = venv.metadata.get("autoreset_mode")
        if mode != AutoresetMode.DISABLED:
            raise EnvError(
                f"Expected a vector environment that does not reset by itself, found autoreset_mode={mode}. "
                "Make it with vector_kwargs={'autoreset_mode': AutoresetMode.DISABLED}."
            )
        self._venv = venv
        self._engine = engine
        self._acting = acting
        self._parse = parse
        self._keys_states = keys_states
        limit = engine.max_context_tokens
        self._histories = Histories(
            venv.num_envs, lambda: make_prompt(prompt, engine.tokenizer, limit, acting.how), acting
        )
        self._players = [
            Player(env_index, history, seed=seed, episode_seed=episode_seed, gives_up=gives_up)
            for env_index, history in enumerate(self._histories)
        ]
        self._begin(self._players)

    def collect(self, num_steps: int) -> list[Trajectory]:
        """Take num_steps steps in every environment; unfinished episodes are cut, and go on in the next call.

        Returns:
            trajectories in the order of environments and time; their turns add up to num_steps x num_envs.
        """
        self._begin([player for player in self._players if not player.is_playing])
        collected = [trajectory for _ in range(num_steps) for trajectory in self._step()]
        collected += [trajectory for player in self._players if (trajectory := player.cut()) is not None]
        return sorted(collected, key=lambda trajectory: trajectory.env_index)

    def collect_episodes(self, num_episodes: int) -> list[Trajectory]:
        """Play num_episodes whole episodes in every environment; the next call begins new ones.

        Returns:
            trajectories in the order of environments and time.
        """
        for player in self._players:
            player.allow(num_episodes)
        self._begin([player for player in self._players if not player.is_playing])
        collected = list(self.episodes())
        for player in self._players:
            player.allow(None)
        return sorted(collected, key=lambda trajectory: trajectory.env_index)

    def episodes(self) -> Iterator[Trajectory]:
        """Play until every environment has run out of episode seeds; yield each whole episode when it ends."""
        while any(player.is_playing for player in self._players):
            yield from self._step()

    def _step(self) -> list[Trajectory]:
        """Take one step in every environment that plays; return the trajectories of the episodes that ended.

        Where an episode is to be given up, that is all that happens.
        """
        playing = [player for player in self._players if player.is_playing]
        given_up = [player for player in playing if player.has_given_up]
        if given_up:
            broken_off = [player.break_off() for player in given_up]
            self._begin(given_up)
            return broken_off
        try:
            choices = self._engine.act(
                [player.history.context_ids for player in playing],
                [options(player.history, self._acting) for player in playing],
                self._acting,
                [player.draw_seed for player in playing],
                parse=self._parse,
            )
        except PromptError as problem:
            if problem.position is None:
                raise
            playing[problem.position].outgrow(problem)
            return []
        observations, rewards, terminations, truncations, infos = self._venv.step(self._env_actions(playing, choices))
        keys = vector_state_keys(self._venv, observations) if self._keys_states else [0] * self._venv.num_envs
        ended = []
        for player, choice in zip(playing, choices, strict=True):
            env_index = player.env_index
            outcome = Outcome(
                text=str(observations["text"][env_index]),
                actions=() if terminations[env_index] else actions_of(infos, env_index),
                reward=checked_reward(rewards[env_index], self._venv, env_index, player.num_turns),
                terminated=bool(terminations[env_index]),
                truncated=bool(truncations[env_index]),
                state_key=keys[env_index],
            )
            trajectory = player.take(choice, outcome)
            if trajectory is not None:
                ended.append(trajectory)
        over = [self._players[env_index] for env_index in np.flatnonzero(np.logical_or(terminations, truncations))]
        self._begin(over)
        return ended

    def _env_actions(self, playing: list[Player], choices: list[Choice]) -> Any:
        """Translate choices into the vector's actions; environments that are done get any valid one."""
        if not hasattr(self._venv.single_action_space, "n"):
            texts = [history.actions[0] for history in self._histories]
            for player, choice in zip(playing, choices, strict=True):
                texts[player.env_index] = player.history.actions[choice.index]
            return tuple(texts)
        actions = np.zeros(self._venv.num_envs, dtype=np.int64)
        for player, choice in zip(playing, choices, strict=True):
            actions[player.env_index] = choice.index
        return actions

    def _begin(self, ended: list[Player]) -> None:
        """Reset environments that ended with the seeds of their next episodes; those without one stop playing.

        A vector steps all its environments, so one that no longer plays goes on idly, and is reset like the others.
        """
        seeds = [0] * self._venv.num_envs
        for player in ended:
            seed = player.next_episode()
            if seed is not None:
                seeds[player.env_index] = seed
        if not ended or not any(player.is_playing for player in self._players):
            return
        mask = np.zeros(self._venv.num_envs, dtype=np.bool_)
        mask[[player.env_index for player in ended]] = True
        reset_options = {} if mask.all() else {"reset_mask": mask}
        # A vector takes a list of seeds too, which its annotation does not say (gymnasium 1.4).
        observations, infos = self._venv.reset(seed=seeds, options=reset_options)  # type: ignore[arg-type]
        keys = vector_state_keys(self._venv, observations) if self._keys_states else [0] * self._venv.num_envs
        for player in ended:
            try:
                self._histories.begin(player.env_index, observations, infos)
            except PromptError as problem:
                player.outgrow(problem)
            player.state_key = keys[player.env_index]


def options(history: History, acting: Acting) -> Sequence[Context]:
    """Return a state's candidates as an engine wants them: texts where an answer is parsed, token ids elsewhere."""
    return history.actions if acting.how == "text" else history.candidate_ids
