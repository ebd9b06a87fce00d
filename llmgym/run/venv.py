"""Environments as a run needs them: many, reset one by one, with seeds of their own."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode, VectorEnv

from llmgym.errors import EnvError, did_you_mean

__all__ = ["check_env_id", "make_envs", "make_venv"]


def make_venv(env_id: str, num_envs: int) -> VectorEnv[Any, Any, Any]:
    """Make a vector environment that does not reset by itself.

    Raises:
        EnvError: there is no such environment.
    """
    check_env_id(env_id)
    return gym.make_vec(
        env_id,
        num_envs=num_envs,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": AutoresetMode.DISABLED},
    )


def make_envs(env_id: str, num_envs: int) -> list[gym.Env[Any, Any]]:
    """Make single environments, which step one by one.

    Raises:
        EnvError: there is no such environment.
    """
    check_env_id(env_id)
    return [gym.make(env_id) for _ in range(num_envs)]


def check_env_id(env_id: str) -> None:
    """Refuse an id that is not registered.

    Raises:
        EnvError: names the nearest id.
    """
    try:
        gym.spec(env_id)
    except gym.error.Error as error:
        known = [name for name in gym.registry if name.startswith("llmgym/")]
        raise EnvError(
            f"Expected the id of a text environment, found {env_id!r}.{did_you_mean(env_id, known)} "
            "`llmgym envs` lists all."
        ) from error
