"""Missions of other episodes: whether a policy reads what it is told shows when it is told something else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from gymnasium.vector import VectorEnv, VectorWrapper

__all__ = ["FindMission", "OtherMissions"]

FindMission = Callable[[int | None, str], str]
"""From the seed of an episode and its own mission to the mission that is told."""


@dataclass(frozen=True)
class OtherMissions:
    """Tells every episode another mission than its own; what is rewarded stays.

    Attributes:
        find: the mission to tell.
    """

    find: FindMission

    def wrap(self, env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
        """Return a text environment that tells other missions."""
        return _OtherMissionEnv(env, self.find)

    def wrap_vector(self, venv: VectorEnv[Any, Any, Any]) -> VectorEnv[Any, Any, Any]:
        """Return a vector of them, which does not reset by itself, that tells other missions."""
        return _OtherMissionVectorEnv(venv, self.find)


class _OtherMissionEnv(gym.Wrapper[Any, Any, Any, Any]):
    def __init__(self, env: gym.Env[Any, Any], find: FindMission) -> None:
        super().__init__(env)
        self._find = find
        self._told = ""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, str], dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self._told = self._find(seed, str(observation["mission"]))
        return {**observation, "mission": self._told}, info

    def step(self, action: Any) -> tuple[dict[str, str], Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return {**observation, "mission": self._told}, reward, terminated, truncated, info


class _OtherMissionVectorEnv(VectorWrapper):
    def __init__(self, env: VectorEnv[Any, Any, Any], find: FindMission) -> None:
        super().__init__(env)
        self._find = find
        self._told = [""] * env.num_envs

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, tuple[str, ...]], dict[str, Any]]:
        # Read first: a vector takes the mask out of the options.
        is_reset = (options or {}).get("reset_mask", [True] * self.num_envs)
        # A vector takes a list of seeds too, which its annotation does not say (gymnasium 1.4).
        observations, infos = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]
        if seed is None or isinstance(seed, int):
            # As gymnasium deals one seed out.
            seeds: Sequence[int | None] = [None if seed is None else seed + n for n in range(self.num_envs)]
        else:
            seeds = seed
        for index, (one, begins) in enumerate(zip(seeds, is_reset, strict=True)):
            if begins:
                self._told[index] = self._find(one, str(observations["mission"][index]))
        return self._telling(observations), infos

    def step(self, actions: Any) -> tuple[dict[str, tuple[str, ...]], Any, Any, Any, dict[str, Any]]:
        observations, *outcome = self.env.step(actions)
        return self._telling(observations), *outcome

    def _telling(self, observations: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
        return {name: tuple(self._told if name == "mission" else texts) for name, texts in observations.items()}
