"""Environments as a run needs them: many, reset one by one, with seeds of their own."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode, VectorEnv

from llmgym.errors import EnvError, did_you_mean
from llmgym.rollout.reward import RewardsChecked

__all__ = ["check_env_id", "make_env", "make_envs", "make_venv"]

NO_SETTINGS: Mapping[str, Any] = {}


def make_venv(env_id: str, num_envs: int, settings: Mapping[str, Any] = NO_SETTINGS) -> VectorEnv[Any, Any, Any]:
    """Make a vector environment that does not reset by itself; all at once where the environment can be so stepped.

    Args:
        settings: keyword arguments of the environment.

    Raises:
        EnvError: there is no such environment, or it knows no such setting.
    """
    check_env_id(env_id)
    steps_at_once = gym.spec(env_id).vector_entry_point is not None
    with _settings_checked(env_id, settings), warnings.catch_warnings():
        # A level that cannot be stepped at once warns; nobody here asked for it.
        warnings.simplefilter("ignore", UserWarning)
        mode: dict[str, Any] = {"autoreset_mode": AutoresetMode.DISABLED}
        if steps_at_once:
            return gym.make_vec(env_id, num_envs, "vector_entry_point", **mode, **settings)
        numbers = count()

        def watch(env: gym.Env[Any, Any]) -> RewardsChecked:
            return RewardsChecked(env, next(numbers))

        return gym.make_vec(env_id, num_envs, "sync", vector_kwargs=mode, wrappers=[watch], **settings)


def make_envs(env_id: str, num_envs: int, settings: Mapping[str, Any] = NO_SETTINGS) -> list[gym.Env[Any, Any]]:
    """Make single environments, which step one by one.

    Raises:
        EnvError: there is no such environment, or it knows no such setting.
    """
    return [RewardsChecked(make_env(env_id, settings), env_index) for env_index in range(num_envs)]


def make_env(env_id: str, settings: Mapping[str, Any] = NO_SETTINGS, **more: Any) -> gym.Env[Any, Any]:
    """Make one environment.

    Args:
        settings: keyword arguments of the environment.
        more: further ones, such as render_mode.

    Raises:
        EnvError: there is no such environment, or it knows no such setting.
    """
    check_env_id(env_id)
    with _settings_checked(env_id, settings):
        return gym.make(env_id, **settings, **more)


@contextmanager
def _settings_checked(env_id: str, settings: Mapping[str, Any]) -> Iterator[None]:
    """Turn a setting that the environment does not know into one line."""
    try:
        yield
    except TypeError as error:
        if not settings:
            raise
        raise EnvError(
            f"Expected env_settings that {env_id} knows, found {', '.join(settings)}: {error}. Correct or remove them."
        ) from error


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
