"""A BabyAI level as a text environment, with the sentences of BabyAI-Text. Knows no prompts and no models."""

from __future__ import annotations

from functools import partial
from typing import Any, SupportsFloat

import gymnasium
import minigrid  # noqa: F401  (registers the levels)
import numpy as np
from gymnasium.spaces import Dict, Discrete
from minigrid.core.roomgrid import RoomGrid
from minigrid.envs.babyai.core.roomgrid_level import RejectSampling, RoomGridLevel

from llmgym.envs.babyai.grammar import describe, fixed_phrases
from llmgym.errors import EnvError
from llmgym.text.space import UnicodeText

__all__ = ["ACTIONS", "TextLevel", "make"]

ACTIONS = ("turn left", "turn right", "go forward", "pick up", "drop", "toggle")
"""Texts of minigrid's actions 0 to 5; its action 6 does nothing."""

_MAX_TEXT_LENGTH = 4096
_MAX_MISSION_LENGTH = 1024
_MAX_DRAWS = 1000
"""Draws of a mission that may be rejected in a row; 26 were the most in 100 seeds of each level of minigrid."""


def make(level: str, **settings: Any) -> TextLevel:
    """Make the text environment of a level.

    Args:
        level: minigrid's id of it, such as "BabyAI-GoToLocal-v0".
        settings: what the level takes, such as max_steps, num_dists or render_mode.
    """
    return TextLevel(gymnasium.make(level, disable_env_checker=True, **settings).unwrapped)


# gymnasium.make asks an entry point for its render modes, to collect frames where the mode ends in "_list".
make.__dict__["metadata"] = RoomGridLevel.metadata


class TextLevel(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Show a level as text. The observation's text is its sentences joined by ", "; info holds them apart.

    ``info["actions"]`` is always `ACTIONS`; ``info["descriptions"]`` is the tuple of sentences.

    Attributes:
        phrases: fixed wordings of the texts; a tokenizer made for this environment has a token for each.
    """

    def __init__(self, level: gymnasium.Env[Any, Any]) -> None:
        """Wrap a level of minigrid; from then on it generates its missions without printing.

        Raises:
            EnvError: it is no level of BabyAI.
        """
        if not isinstance(level, RoomGridLevel):
            raise EnvError(
                f"Expected a BabyAI level of minigrid, got {level}. Wrap other environments in llmgym.text.TextEnv."
            )
        super().__init__(level)
        self.phrases = fixed_phrases()
        level._gen_grid = partial(_generate, level)
        self.observation_space = Dict(
            {"mission": UnicodeText(_MAX_MISSION_LENGTH), "text": UnicodeText(_MAX_TEXT_LENGTH)}
        )
        self.action_space = Discrete(len(ACTIONS))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, str], dict[str, Any]]:
        """Draw an episode; the same seed draws the one that minigrid draws with it.

        Raises:
            EnvError: no mission can be drawn with the settings of the level.
        """
        observation, info = self.env.reset(seed=seed, options=options)
        level: Any = self.env
        if level.carrying is not None:
            # PutNext...Carrying puts the object into the hands after it made the observation.
            observation = level.gen_obs()
        return _read(observation, info)

    def step(self, action: Any) -> tuple[dict[str, str], SupportsFloat, bool, bool, dict[str, Any]]:
        """Take an action, an index into `ACTIONS`.

        Raises:
            EnvError: there is no such action.
        """
        if not isinstance(action, int | np.integer) or not 0 <= action < len(ACTIONS):
            raise EnvError(
                f"Expected an action from 0 to {len(ACTIONS) - 1}, got {action!r}. Its text is the one at that place "
                f"in {ACTIONS}."
            )
        observation, reward, terminated, truncated, info = self.env.step(int(action))
        texts, info = _read(observation, info)
        return texts, reward, terminated, truncated, info


def _read(observation: dict[str, Any], info: dict[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
    sentences = describe(observation["image"])
    texts = {"mission": observation["mission"], "text": ", ".join(sentences)}
    return texts, {**info, "actions": ACTIONS, "descriptions": tuple(sentences)}


def _generate(level: Any, width: int, height: int) -> None:
    """Generate grid and mission as `RoomGridLevel._gen_grid` of minigrid 3.2, without its prints and with an end."""
    reason: Exception | None = None
    for _ in range(_MAX_DRAWS):
        try:
            RoomGrid._gen_grid(level, width, height)
            level.gen_mission()
            level.validate_instrs(level.instrs)
        except (RejectSampling, RecursionError) as rejection:
            reason = rejection
            continue
        level.surface = level.mission = level.instrs.surface(level)
        return
    raise EnvError(
        f"Expected {type(level).__name__} to draw a mission, but {_MAX_DRAWS} draws were rejected, the last one "
        f"because: {reason}. Give it fewer objects (num_dists) or more room (room_size)."
    ) from reason
