"""A BabyAI level as a text environment, with the sentences of BabyAI-Text. Knows no prompts and no models."""

from __future__ import annotations

from functools import partial
from typing import Any, SupportsFloat

import gymnasium
import minigrid  # noqa: F401  (registers the levels)
import numpy as np
import numpy.typing as npt
from gymnasium.envs.registration import load_env_creator
from gymnasium.spaces import Box, Dict, Discrete
from minigrid.core.roomgrid import RoomGrid
from minigrid.envs.babyai.core.roomgrid_level import RejectSampling, RoomGridLevel

from llmgym.envs.babyai.batch_view import SIDE
from llmgym.envs.babyai.grammar import check_language, describe, fixed_phrases
from llmgym.envs.babyai.mission_grammar import mission_phrases, translate_mission
from llmgym.envs.babyai.mixed_level import MixedLevel
from llmgym.envs.babyai.reachability import check_objs_reachable
from llmgym.errors import EnvError
from llmgym.text.space import UnicodeText
from llmgym.text.state_key import state_key

__all__ = ["ACTIONS", "TextLevel", "make"]

ACTIONS = ("turn left", "turn right", "go forward", "pick up", "drop", "toggle")
"""Texts of minigrid's actions 0 to 5; its action 6 does nothing."""

_MAX_TEXT_LENGTH = 4096
_MAX_MISSION_LENGTH = 1024
_MAX_DRAWS = 100_000
"""Draws of a mission that may be rejected in a row: 26 in the usual levels, hundreds with 16 objects in a room."""


def make(
    level: str, *, language: str = "english", parity: bool = True, symbolic: bool = False, **settings: Any
) -> TextLevel:
    """Make the text environment of a level.

    With parity, which is what papers report, it is the environment of the GLAM paper (Carta et al. 2023) with all its
    quirks: "a open door" is said, French sentences keep the English mission and the English name of what is carried,
    and MixedTrainLocal and its like draw one of their five kinds when the first episode begins, from that episode's
    seed, and keep it. Without, all is said as it should be, and every episode draws its kind, from its own seed.

    Args:
        level: minigrid's id of it, such as "BabyAI-GoToLocal-v0", or ``module:class`` of one of ours.
        language: of the sentences, "english" or "french".
        parity: keep the quirks of the paper's environment.
        symbolic: show the view that the sentences are made of instead of the sentences (see `TextLevel`).
        settings: what the level takes, such as max_steps, num_dists or render_mode; where it has kinds, kind, and
            redraws_kind, whether every episode draws one (as parity says if it is left out).

    Raises:
        EnvError: there is no such language or kind.
    """
    check_language(language)
    if level in gymnasium.registry:
        inner = gymnasium.make(level, disable_env_checker=True, **settings).unwrapped
    else:
        creator: Any = load_env_creator(level)
        if creator is MixedLevel:
            settings.setdefault("redraws_kind", not parity)
        inner = creator(**settings)
    return TextLevel(inner, language=language, parity=parity, symbolic=symbolic)


# gymnasium.make asks an entry point for its render modes, to collect frames where the mode ends in "_list".
make.__dict__["metadata"] = RoomGridLevel.metadata


class TextLevel(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Show a level as text. The observation's text is its sentences joined by ", "; info holds them apart.

    ``info["actions"]`` is always `ACTIONS`; ``info["descriptions"]`` is the tuple of sentences; where the level has
    kinds of missions, ``info["kind"]`` is that of the episode. A symbolic level shows ``image``, uint8 (7, 7, 3), in
    place of the text and of the sentences: minigrid's view, of which the sentences are a pure function.

    Attributes:
        phrases: fixed wordings of the texts; a tokenizer made for this environment has a token for each.
        mission_language: what missions are told in; the paper's environment tells them in English always.
        view: what the agent sees now, minigrid's image, uint8 (7, 7, 3); from the first reset on.
    """

    view: npt.NDArray[np.uint8]

    def __init__(
        self,
        level: gymnasium.Env[Any, Any],
        *,
        language: str = "english",
        parity: bool = True,
        symbolic: bool = False,
    ) -> None:
        """Wrap a level of minigrid; from then on it generates its missions without printing.

        Args:
            level: a level of BabyAI.
            language: of the sentences.
            parity: say everything as the paper's environment does (see `describe` and `make`).
            symbolic: show the view, and tell no sentences.

        Raises:
            EnvError: it is no level of BabyAI.
        """
        if not isinstance(level, RoomGridLevel):
            raise EnvError(
                f"Expected a BabyAI level of minigrid, got {level}. Wrap other environments in llmgym.text.TextEnv."
            )
        super().__init__(level)
        self.mission_language = "english" if parity else language
        self.phrases = (*fixed_phrases(language, parity=parity), *mission_phrases(self.mission_language))
        self._language = language
        self._parity = parity
        self._symbolic = symbolic
        level._gen_grid = partial(_generate, level)
        level.check_objs_reachable = partial(check_objs_reachable, level)
        view = Box(0, 255, (SIDE, SIDE, 3), np.uint8)
        seen = {"image": view} if symbolic else {"text": UnicodeText(_MAX_TEXT_LENGTH)}
        self.observation_space = Dict({"mission": UnicodeText(_MAX_MISSION_LENGTH), **seen})
        self.action_space = Discrete(len(ACTIONS))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Draw an episode; the same seed draws the one that minigrid draws with it.

        Raises:
            EnvError: no mission can be drawn with the settings of the level.
        """
        observation, info = self.env.reset(seed=seed, options=options)
        level: Any = self.env
        if level.carrying is not None:
            # PutNext...Carrying puts the object into the hands after it made the observation.
            observation = level.gen_obs()
        return self._read(observation, info)

    def step(self, action: Any) -> tuple[dict[str, Any], SupportsFloat, bool, bool, dict[str, Any]]:
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
        seen, info = self._read(observation, info)
        return seen, reward, terminated, truncated, info

    def state_key(self) -> int:
        """Return a number for the state that the level is in: the grid, the agent, and what it carries."""
        level: Any = self.env
        held = level.carrying
        carried = "" if held is None else f"{held.color} {held.type}"
        return state_key(level.grid.encode().tobytes(), str(tuple(level.agent_pos)), int(level.agent_dir), carried)

    def _read(self, observation: dict[str, Any], info: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        mission = translate_mission(observation["mission"], self.mission_language)
        told = {**info, "actions": ACTIONS}
        if isinstance(self.env, MixedLevel):
            told["kind"] = self.env.kind
        self.view = observation["image"]
        if self._symbolic:
            return {"mission": mission, "image": self.view}, told
        sentences = describe(self.view, self._language, parity=self._parity)
        return {"mission": mission, "text": ", ".join(sentences)}, {**told, "descriptions": tuple(sentences)}


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
