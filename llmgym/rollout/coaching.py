"""Coaching: a player begins an episode, an expert ends it, and says at every step what it would do. Knows no engine.

Ross, Gordon and Bagnell 2011 (DAgger), https://arxiv.org/abs/1011.0686: whoever has only seen an expert's states does
not know how to get out of those that its own mistakes lead to. There, whoever is lost plays on to the limit of steps;
here the expert takes over, so that more of the steps show a way.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from llmgym.errors import EnvError
from llmgym.rollout.demonstrations import Advice, Expert
from llmgym.rollout.recording import Episode, Recorder
from llmgym.text.histories import action_index, actions_of

__all__ = ["Coached"]

_LEAD_STREAM = 2
"""Names the draws of how many steps a player has, apart from those of the environment."""


class Coached(gym.Wrapper[Any, Any, Any, Any]):
    """Let a player take an episode's first steps, and an expert the others, inside the player's last step.

    The player is told that the episode was truncated. How many steps it has is drawn, from the episode's seed.
    """

    def __init__(self, env: gym.Env[Any, Any], expert: Expert, max_own_steps: int) -> None:
        """Let an expert look at env, a text environment.

        Args:
            env: who plays in it takes actions as it does.
            expert: gives advice, and takes over.
            max_own_steps: of the player in an episode; all numbers from 1 to this are as likely.
        """
        self._recorder = Recorder(env)
        super().__init__(self._recorder)
        self._expert = expert
        self._max_own_steps = max_own_steps
        self._takes_text = not hasattr(env.action_space, "n")
        self._advice: Advice | None = None
        self._seen: tuple[dict[str, str], dict[str, Any]] = ({}, {})
        self._num_left = 0
        self._finished: list[Episode] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, str], dict[str, Any]]:
        """Begin an episode; one that is not over is forgotten."""
        self._seen = self.env.reset(seed=seed, options=options)
        self._advice = None
        rng = np.random.default_rng(None if seed is None else [seed, _LEAD_STREAM])
        self._num_left = int(rng.integers(self._max_own_steps)) + 1
        return self._seen

    def step(self, action: Any) -> tuple[dict[str, str], Any, bool, bool, dict[str, Any]]:
        """Take the player's step, and, where it was the last, the expert's to the end of the episode.

        Where the expert gives up, the episode is cut.
        """
        index = action_index(action, actions_of(self._seen[1]))
        if self._ask() is None:
            self._keep(self._recorder.cut())
            observation, info = self._seen
            return observation, 0.0, False, True, info
        assert self._advice is not None, "it was asked"
        self._advice.note(index)
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._seen = observation, info
        self._num_left -= 1
        if terminated or truncated:
            self._keep(self._recorder.take())
        elif self._num_left == 0:
            self._play_on()
            truncated = True
        return observation, reward, terminated, truncated, info

    def take(self) -> list[Episode]:
        """Hand out the episodes that are over, each once; their infos name the advice `ADVISED`."""
        finished, self._finished = self._finished, []
        return finished

    def _ask(self) -> int | None:
        """Return what the expert would do; None where it gives up."""
        try:
            self._advice = self._advice or Advice(self._expert, self.env)
            return self._advice.ask()
        except EnvError:
            return None

    def _play_on(self) -> None:
        """Let the expert play to the end."""
        is_over, info = False, self._seen[1]
        while not is_over:
            index = self._ask()
            if index is None:
                self._keep(self._recorder.cut())
                return
            action = actions_of(info)[index] if self._takes_text else index
            _, _, terminated, truncated, info = self.env.step(action)
            is_over = terminated or truncated
        self._keep(self._recorder.take())

    def _keep(self, episode: Episode | None) -> None:
        """Keep an episode, if there is one, with the advice beside it."""
        if episode is not None and self._advice is not None:
            self._finished.append(self._advice.beside(episode))
