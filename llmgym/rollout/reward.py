"""Rewards as environments give them: numbers, or an error that says where there was none. Knows no trajectory."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
from gymnasium.vector import VectorEnv

from llmgym.errors import EnvError

__all__ = ["RewardsChecked", "checked_reward"]


def checked_reward(
    reward: Any, env: gym.Env[Any, Any] | VectorEnv[Any, Any, Any], env_index: int | None, step: int
) -> float:
    """Return a reward as a finite number.

    Args:
        reward: as the environment gave it.
        env: who gave it.
        env_index: which of a vector or a list of environments; None for a single one.
        step: of its episode, from 0.

    Raises:
        EnvError: it is NaN, infinite, or no number.

    >>> checked_reward(1, gym.make("llmgym/FrozenLake-v0"), 0, 4)
    1.0
    """
    try:
        number = math.nan if isinstance(reward, str | bytes) else float(reward)
    except (TypeError, ValueError):
        number = math.nan
    if math.isfinite(number):
        return number
    which = "" if env_index is None else f" in environment {env_index}"
    raise EnvError(
        f"Expected a finite number as the reward of {_name(env)}, found {reward!r} ({type(reward).__name__}){which} at "
        f"step {step} of its episode. Correct the step() of the environment."
    )


class RewardsChecked(gym.Wrapper[Any, Any, Any, Any]):
    """Refuses rewards that are no finite numbers, before a vector of environments makes numbers of them.

    A vector keeps rewards in an array, in which None becomes NaN and "1" becomes 1.
    """

    def __init__(self, env: gym.Env[Any, Any], env_index: int | None = None) -> None:
        """Watch an environment, the one of that index in its vector."""
        super().__init__(env)
        self._env_index = env_index
        self._num_steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin to count steps anew."""
        self._num_steps = 0
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step, and look at its reward.

        Raises:
            EnvError: it is no finite number.
        """
        observation, reward, terminated, truncated, info = self.env.step(action)
        number = checked_reward(reward, self.env, self._env_index, self._num_steps)
        self._num_steps += 1
        return observation, number, terminated, truncated, info


def _name(env: gym.Env[Any, Any] | VectorEnv[Any, Any, Any]) -> str:
    """Name an environment by its id, or by its class where it has none."""
    spec = env.spec
    return spec.id if spec is not None else type(env.unwrapped).__name__
