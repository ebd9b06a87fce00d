"""Advice: what an expert would have done, at every step of somebody else's episode. Knows no engine."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import gymnasium as gym

from llmgym.errors import EnvError
from llmgym.rollout.demonstrations import Expert
from llmgym.text.histories import action_index, actions_of
from llmgym.types import Trajectory

__all__ = ["Advice", "Advised", "corrected"]

Advice = tuple[int, ...]
"""The expert's action before every step, an index; shorter than the episode where the expert gave up on it."""


class Advised(gym.Wrapper[Any, Any, Any, Any]):
    """Let an expert look on, and keep what it would have done until it is taken."""

    def __init__(self, env: gym.Env[Any, Any], expert: Expert) -> None:
        """Let an expert look at env, a text environment."""
        super().__init__(env)
        self._expert = expert
        self._act: Callable[..., int] | None = None
        self._actions: tuple[str, ...] = ()
        self._advice: list[int] = []
        self._finished: deque[Advice] = deque()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, str], dict[str, Any]]:
        """Begin an episode; one that is not over is forgotten."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._advice, self._actions = [], actions_of(info)
        try:
            self._act = self._expert.begin(self.env)
        except EnvError:
            self._act = None
        self._ask()
        return observation, info

    def step(self, action: Any) -> tuple[dict[str, str], Any, bool, bool, dict[str, Any]]:
        """Take a step, and ask the expert about the next one."""
        index = action_index(action, self._actions)
        observation, reward, terminated, truncated, info = self.env.step(action)
        if terminated or truncated:
            self._finished.append(tuple(self._advice))
        else:
            self._actions = actions_of(info)
            self._ask(*(() if self._advice and index == self._advice[-1] else (index,)))
        return observation, reward, terminated, truncated, info

    def take(self) -> Advice:
        """Hand out the advice on the oldest episode that is over; every episode's once.

        Raises:
            EnvError: there is none.
        """
        if not self._finished:
            raise EnvError("Expected an episode that is over, found none. Step until it is terminated or truncated.")
        return self._finished.popleft()

    def _ask(self, *done_instead: int) -> None:
        """Ask what to do now; an expert that gives up is not asked again."""
        if self._act is None:
            return
        try:
            self._advice.append(self._act(*done_instead))
        except EnvError:
            self._act = None


def corrected(trajectory: Trajectory, advice: Sequence[int]) -> Trajectory | None:
    """Return an episode in which every turn's action is the expert's; the prompts tell what was really done.

    Args:
        trajectory: a whole episode.
        advice: of its turns, or of the first of them; what comes behind is cut off.

    Returns:
        None where there is no advice.
    """
    turns = trajectory.turns
    if not advice:
        return None
    told = tuple(replace(turn, action=action, logprob=0.0) for turn, action in zip(turns, advice, strict=False))
    if len(told) == len(turns):
        return replace(trajectory, turns=told)
    return replace(trajectory, turns=told, final_prompt_ids=turns[len(told)].prompt_ids)
