"""The ids of llmgym in Gymnasium's registry. Knows names only: an environment is imported when it is made."""

from __future__ import annotations

from gymnasium.envs.registration import register

from llmgym.envs.babyai.levels import LEVELS

__all__ = ["register_all"]


def register_all() -> None:
    """Register every environment of llmgym; called as soon as gymnasium and llmgym are both imported."""
    for level in LEVELS:
        register(
            id=f"llmgym/BabyAI-{level}",
            entry_point="llmgym.envs.babyai.text_level:make",
            kwargs={"level": f"BabyAI-{level}"},
        )
