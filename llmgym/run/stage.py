"""The stage: environments as an agent that is no language model plays in them, all at once or one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import VectorEnv

from llmgym.run.agents import Situation
from llmgym.run.venv import make_envs, make_venv
from llmgym.text.histories import actions_of
from llmgym.text.rewording import NO_REWORDING, Telling

__all__ = ["Stage", "open_stage"]


class Stage(Protocol):
    """Several environments, each in an episode or idle."""

    def begin(self, seeds: Mapping[int, int]) -> None:
        """Begin episodes in environments, by their numbers, with seeds."""
        ...

    def situation(self, env_index: int) -> Situation:
        """Return what is shown of an environment now."""
        ...

    def step(self, actions: Mapping[int, int]) -> dict[int, tuple[float, bool]]:
        """Take actions in environments, by their numbers; return each one's reward, and whether the episode ended."""
        ...

    def close(self) -> None:
        """Close the environments."""
        ...


def open_stage(
    env_id: str,
    env_settings: Mapping[str, Any],
    num_envs: int,
    *,
    one_by_one: bool,
    telling: Telling = NO_REWORDING,
) -> Stage:
    """Make environments for agents.

    Args:
        env_settings: keyword arguments of the environment.
        one_by_one: whether situations show the environments themselves; slower.
        telling: how the environments are told.

    Raises:
        EnvError: there is no such environment, or it knows no such setting.
    """
    if one_by_one:
        envs = make_envs(env_id, num_envs, env_settings)
        return _OneByOne([telling.wrap(env) for env in envs])
    venv = make_venv(env_id, num_envs, env_settings)
    return _AtOnce(telling.wrap_vector(venv))


class _AtOnce:
    """A vector environment. It steps all its environments: the idle ones go on idly, and are reset like the others."""

    def __init__(self, venv: VectorEnv[Any, Any, Any]) -> None:
        self._venv = venv
        self._takes_text = not hasattr(venv.single_action_space, "n")
        self._is_over: npt.NDArray[np.bool_] = np.ones(venv.num_envs, dtype=np.bool_)
        self._missions: list[str] = [""] * venv.num_envs
        self._texts: Sequence[str] = ()
        self._actions: list[tuple[str, ...]] = [()] * venv.num_envs

    def begin(self, seeds: Mapping[int, int]) -> None:
        """Reset what is over, with the seeds where there are any."""
        mask = self._is_over.copy()
        mask[list(seeds)] = True
        if not mask.any():
            return
        reset_options = {} if mask.all() else {"reset_mask": mask.copy()}
        every_seed = [seeds.get(env_index, 0) for env_index in range(self._venv.num_envs)]
        # A vector takes a list of seeds too, which its annotation does not say (gymnasium 1.4).
        observations, infos = self._venv.reset(seed=every_seed, options=reset_options)  # type: ignore[arg-type]
        self._texts = observations["text"]
        for env_index in np.flatnonzero(mask).tolist():
            self._missions[env_index] = observations["mission"][env_index]
            self._actions[env_index] = actions_of(infos, env_index)
        self._is_over[mask] = False

    def situation(self, env_index: int) -> Situation:
        """Return what is shown of an environment now."""
        return Situation(env_index, self._missions[env_index], self._texts[env_index], self._actions[env_index])

    def step(self, actions: Mapping[int, int]) -> dict[int, tuple[float, bool]]:
        """Take actions; idle environments take their first one."""
        chosen = [actions.get(env_index, 0) for env_index in range(self._venv.num_envs)]
        taken: Any = np.array(chosen, dtype=np.int64)
        if self._takes_text:
            taken = tuple(texts[index] for texts, index in zip(self._actions, chosen, strict=True))
        observations, rewards, terminations, truncations, infos = self._venv.step(taken)
        self._texts = observations["text"]
        self._is_over = np.logical_or(terminations, truncations)
        for env_index, texts in enumerate(infos.get("actions", ())):
            if texts is not None:
                self._actions[env_index] = texts
        return {env_index: (float(rewards[env_index]), bool(self._is_over[env_index])) for env_index in actions}

    def close(self) -> None:
        """Close the environments."""
        self._venv.close()


class _OneByOne:
    """Single environments, shown in the situations; idle ones stand still."""

    def __init__(self, envs: Sequence[gym.Env[Any, Any]]) -> None:
        self._envs = envs
        self._situations: dict[int, Situation] = {}

    def begin(self, seeds: Mapping[int, int]) -> None:
        """Reset environments with their seeds."""
        for env_index, seed in seeds.items():
            env = self._envs[env_index]
            observation, info = env.reset(seed=seed)
            self._show(env_index, observation, actions_of(info))

    def situation(self, env_index: int) -> Situation:
        """Return what is shown of an environment now."""
        return self._situations[env_index]

    def step(self, actions: Mapping[int, int]) -> dict[int, tuple[float, bool]]:
        """Take actions."""
        outcomes = {}
        for env_index, index in actions.items():
            env, known = self._envs[env_index], self._situations[env_index].actions
            action = index if hasattr(env.action_space, "n") else known[index]
            observation, reward, terminated, truncated, info = env.step(action)
            self._show(env_index, observation, () if terminated else actions_of(info))
            outcomes[env_index] = (float(reward), bool(terminated or truncated))
        return outcomes

    def close(self) -> None:
        """Close the environments."""
        for env in self._envs:
            env.close()

    def _show(self, env_index: int, observation: Mapping[str, Any], actions: tuple[str, ...]) -> None:
        mission, text = str(observation["mission"]), str(observation["text"])
        self._situations[env_index] = Situation(env_index, mission, text, actions, self._envs[env_index])
