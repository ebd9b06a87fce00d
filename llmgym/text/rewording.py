"""Telling: an environment told otherwise, while what its actions do stays. Knows no prompts and no models.

In other words (`Rewording`), or with the missions of other episodes (`llmgym.text.missions`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper

from llmgym.errors import EnvError

__all__ = ["NO_REWORDING", "RewordEnv", "RewordVectorEnv", "Rewording", "Telling"]


class Telling(Protocol):
    """How environments are told."""

    def wrap(self, env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
        """Return a text environment as it is told."""
        ...

    def wrap_vector(self, venv: VectorEnv[Any, Any, Any]) -> VectorEnv[Any, Any, Any]:
        """Return a vector of them that does not reset by itself as it is told."""
        ...


@dataclass(frozen=True)
class Rewording:
    """Which words are replaced, in all that is read: missions, observations and actions.

    Attributes:
        words: from an old text to the new one, wherever it stands, in this order; parts of words count.
        actions: from a whole action to what it is called instead; missions and observations keep the old name.
    """

    words: dict[str, str] = field(default_factory=dict)
    actions: dict[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether anything is replaced."""
        return bool(self.words or self.actions)

    def wrap(self, env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
        """Return a text environment in the new words; itself where nothing is replaced."""
        return RewordEnv(env, self) if self else env

    def wrap_vector(self, venv: VectorEnv[Any, Any, Any]) -> VectorEnv[Any, Any, Any]:
        """Return a vector of them in the new words; itself where nothing is replaced."""
        return RewordVectorEnv(venv, self) if self else venv

    def text(self, text: str) -> str:
        """Return a mission or an observation in the new words.

        >>> Rewording({"key": "chair", "red": "vermilion"}).text("go to the red key")
        'go to the vermilion chair'
        """
        for old, new in self.words.items():
            text = text.replace(old, new)
        return text

    def action(self, action: str) -> str:
        """Return an action in the new words.

        >>> Rewording(actions={"pick up": "take"}).action("pick up")
        'take'
        """
        return self.text(self.actions.get(action, action))


NO_REWORDING = Rewording()


class RewordEnv(gym.Wrapper[Any, Any, Any, Any]):
    """A text environment whose mission, observations and `info["actions"]` are told in other words.

    Actions keep their places in `info["actions"]`; where an action is a text, the new one is taken.
    """

    def __init__(self, env: gym.Env[Any, Any], rewording: Rewording) -> None:
        super().__init__(env)
        self._rewording = rewording
        self._actions: tuple[str, ...] = ()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, str], dict[str, Any]]:
        """Begin an episode, in other words."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._told(observation), self._informed(info)

    def step(self, action: Any) -> tuple[dict[str, str], Any, bool, bool, dict[str, Any]]:
        """Take an action: its index, or its new text."""
        if isinstance(action, str):
            action = _old_action(action, self._actions, self._rewording)
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._told(observation), reward, terminated, truncated, self._informed(info)

    def _told(self, observation: Mapping[str, str]) -> dict[str, str]:
        return {name: self._rewording.text(text) for name, text in observation.items()}

    def _informed(self, info: Mapping[str, Any]) -> dict[str, Any]:
        self._actions = tuple(info.get("actions") or ())
        return {**info, "actions": tuple(map(self._rewording.action, self._actions))}


class RewordVectorEnv(VectorWrapper):
    """`RewordEnv` for all environments of a vector that does not reset by itself."""

    def __init__(self, env: VectorEnv[Any, Any, Any], rewording: Rewording) -> None:
        super().__init__(env)
        self._rewording = rewording
        self._actions: list[tuple[str, ...]] = [()] * env.num_envs

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, tuple[str, ...]], dict[str, Any]]:
        """Begin episodes, in other words."""
        # A vector takes a list of seeds too, which its annotation does not say (gymnasium 1.4).
        observations, infos = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]
        return self._told(observations), self._informed(infos)

    def step(self, actions: Any) -> tuple[dict[str, tuple[str, ...]], Any, Any, Any, dict[str, Any]]:
        """Take an action in every environment: its index, or its new text."""
        if isinstance(actions, Sequence) and actions and isinstance(actions[0], str):
            pairs = zip(actions, self._actions, strict=True)
            actions = tuple(_old_action(action, known, self._rewording) for action, known in pairs)
        observations, rewards, terminations, truncations, infos = self.env.step(actions)
        return self._told(observations), rewards, terminations, truncations, self._informed(infos)

    def _told(self, observations: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
        return {name: tuple(map(self._rewording.text, texts)) for name, texts in observations.items()}

    def _informed(self, infos: Mapping[str, Any]) -> dict[str, Any]:
        if infos.get("actions") is None:
            return dict(infos)
        told = np.full(self.num_envs, None, dtype=object)
        for index, actions in enumerate(infos["actions"]):
            if actions is not None:
                self._actions[index] = tuple(actions)
                told[index] = tuple(map(self._rewording.action, actions))
        return {**infos, "actions": told}


def _old_action(action: str, actions: Sequence[str], rewording: Rewording) -> str:
    """Return the environment's own text of an action that was told in other words."""
    for old in actions:
        if rewording.action(old) == action:
            return old
    raise EnvError(
        f"Expected an action among {[rewording.action(old) for old in actions]}, found {action!r}. "
        "Take one of info['actions']."
    )
