"""State keys: one number for the state that an environment is in, the same for equal states.

An environment that knows its state better than it shows it has a method ``state_key() -> int``, as BabyAI's levels do,
of which only a part is seen. Of any other, what it shows is its state.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import gymnasium as gym
from gymnasium.vector import VectorEnv

__all__ = ["env_state_key", "state_key", "vector_state_keys"]


def state_key(*parts: bytes | str | int) -> int:
    """Return a number from 0 to 2^63 - 1 for what is given, the same in every process.

    >>> state_key("a", 1) == state_key("a", 1), state_key("a", 1) == state_key("a", 2)
    (True, False)
    """
    digest = blake2b(digest_size=8)
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return int.from_bytes(digest.digest(), "little") >> 1


def env_state_key(env: gym.Env[Any, Any], observation: Mapping[str, Any]) -> int:
    """Return the key of an environment's state, which shows an observation now."""
    if env.has_wrapper_attr("state_key"):
        return int(env.get_wrapper_attr("state_key")())
    return state_key(str(observation["text"]))


def vector_state_keys(venv: VectorEnv[Any, Any, Any], observations: Mapping[str, Any]) -> list[int]:
    """Return the keys of the states of all environments of a vector, which show these observations now."""
    try:
        return [int(key) for key in venv.call("state_key")]  # type: ignore[attr-defined]
    except AttributeError:
        return [state_key(str(text)) for text in observations["text"]]
