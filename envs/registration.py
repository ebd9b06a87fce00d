"""The ids of llmgym in Gymnasium's registry. Knows names only: an environment is imported when it is made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gymnasium.envs.registration import register

from llmgym.envs.babyai.levels import LEVELS, PAPER_LEVELS

__all__ = ["register_all"]

_OTHERS = {
    "Blackjack-v0": ("toy_text.blackjack:make", None),
    "CartPole-v0": ("toy_text.cart_pole:make", 500),
    "CliffWalking-v0": ("toy_text.cliff_walking:make", 200),
    "FrozenLake-v0": ("toy_text.frozen_lake:make", 100),
    "Taxi-v0": ("toy_text.taxi:make", 200),
    "TextWorld-v0": ("textworld:TextWorldGame", 50),
}
"""Name, where it is made, and the steps after which an episode is cut off."""


def register_all() -> None:
    """Register every environment of llmgym; called as soon as gymnasium and llmgym are both imported."""
    for level in LEVELS:
        _register_level(level, {"level": f"BabyAI-{level}"})
    for level, settings in PAPER_LEVELS.items():
        _register_level(level, settings)
    for name, (entry_point, max_steps) in _OTHERS.items():
        register(id=f"llmgym/{name}", entry_point=f"llmgym.envs.{entry_point}", max_episode_steps=max_steps)
    register(
        id="llmgym/FrozenLake8x8-v0",
        entry_point="llmgym.envs.toy_text.frozen_lake:make",
        max_episode_steps=200,
        kwargs={"map_name": "8x8"},
    )


def _register_level(level: str, settings: Mapping[str, Any]) -> None:
    register(
        id=f"llmgym/BabyAI-{level}",
        entry_point="llmgym.envs.babyai.text_level:make",
        vector_entry_point="llmgym.envs.babyai.batch_env:make_batch",
        kwargs=dict(settings),
    )
