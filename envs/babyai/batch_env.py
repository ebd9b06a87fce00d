"""Many BabyAI levels stepped at once, as a vector environment of Gymnasium: what `SyncVectorEnv` gives, only faster."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from minigrid.envs.babyai.core.levelgen import LevelGen
from minigrid.envs.babyai.unlock import KeyInBox

from llmgym.envs.babyai.batch_grid import BatchGrid
from llmgym.envs.babyai.batch_mission import BatchMission
from llmgym.envs.babyai.batch_text import BatchText
from llmgym.envs.babyai.batch_view import SIDE, images_of
from llmgym.envs.babyai.draws import RandomIntegers
from llmgym.envs.babyai.mission_grammar import translate_mission
from llmgym.envs.babyai.mixed_level import MixedLevel
from llmgym.envs.babyai.text_level import ACTIONS, TextLevel, make
from llmgym.errors import EnvError

__all__ = ["BatchTextLevel", "is_covered", "make_batch"]

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Seen = dict[str, Any]

_STRICTER = ("debug", "strict", "start_carrying")
"""Settings of minigrid's levels with which a mission may fail, or the agent begins with something in its hands."""


def make_batch(
    level: str,
    num_envs: int = 1,
    *,
    autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    **settings: Any,
) -> VectorEnv[Any, Any, Any]:
    """Make a vector environment of a level: all at once where it is covered, else one by one, with a warning.

    >>> import gymnasium
    >>> venv = gymnasium.make_vec("llmgym/BabyAI-GoToLocal-v0", num_envs=2, vectorization_mode="vector_entry_point")
    >>> texts, infos = venv.reset(seed=0)
    >>> texts["mission"]
    ('go to the green ball', 'go to the purple box')

    Args:
        level: see `llmgym.envs.babyai.text_level.make`.
        num_envs: how many.
        autoreset_mode: when finished episodes are followed by new ones, one of Gymnasium's modes.
        settings: of the level, see `make`.
    """
    mode = AutoresetMode(autoreset_mode)
    make_one = partial(make, level, **settings)
    first = make_one()
    if is_covered(first.env) and first.render_mode is None:
        levels = [first, *(make_one() for _ in range(num_envs - 1))]
        is_text = not settings.get("symbolic", False)
        parity = settings.get("parity", True)
        text = BatchText(settings.get("language", "english"), parity=parity) if is_text else None
        return BatchTextLevel(levels, text, autoreset_mode=mode)
    warnings.warn(
        f"Environments of {level} are stepped one by one: stepping all at once covers no missions joined by 'and' or "
        "that may fail, no keys in boxes, and neither rendering nor other views. Choose vectorization_mode='sync' or "
        "'async' to have no warning.",
        stacklevel=2,
    )
    return SyncVectorEnv([make_one] * num_envs, autoreset_mode=mode)


def is_covered(level: Any) -> bool:
    """Tell whether a level of minigrid or of ours can be stepped with others at once."""
    if isinstance(level, KeyInBox) or any(getattr(level, name, False) for name in _STRICTER):
        return False
    if isinstance(level, LevelGen) and set(level.instr_kinds) != {"action"}:
        return False
    return level.agent_view_size == SIDE and not level.see_through_walls


class BatchTextLevel(VectorEnv[Seen, Any, Any]):
    """Step the episodes of many levels at once; observations, rewards, infos and seeds are those of `SyncVectorEnv`.

    Episodes are drawn by the levels themselves, one by one. The levels do not know what happens afterwards.
    """

    def __init__(self, levels: Sequence[TextLevel], text: BatchText | None, *, autoreset_mode: AutoresetMode) -> None:
        """Take over levels of one sort.

        Args:
            levels: they draw the episodes.
            text: says what is seen; None where the levels are symbolic, and show it.
            autoreset_mode: when finished episodes are followed by new ones.
        """
        self.num_envs = len(levels)
        self.autoreset_mode = autoreset_mode
        self.metadata = {**levels[0].metadata, "autoreset_mode": autoreset_mode}
        self.single_observation_space = levels[0].observation_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.single_action_space = levels[0].action_space
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._levels: list[Any] = [level.env for level in levels]
        for level in self._levels:
            level.gen_obs = dict  # What the level itself sees is not asked for, and takes as long as all the rest.
            level._rand_int = RandomIntegers(partial(getattr, level, "np_random"))
        first = self._levels[0]
        # A mixed level has two rooms in a row when a door is to be opened, else one.
        width = 2 * (first.room_size - 1) + 1 if isinstance(first, MixedLevel) else first.width
        self._grid = BatchGrid(self.num_envs, width, first.height, num_things=16)
        self._mission = BatchMission(self._grid)
        self._text = text
        self._mission_language = levels[0].mission_language
        self._num_steps = np.zeros(self.num_envs, dtype=np.int64)
        self._max_steps = np.ones(self.num_envs, dtype=np.int64)
        self._is_over = np.zeros(self.num_envs, dtype=np.bool_)
        self._missions = [""] * self.num_envs
        self._texts = [""] * self.num_envs
        self._images = np.zeros((self.num_envs, SIDE, SIDE, 3), dtype=np.uint8)
        names = ("actions",) if text is None else ("actions", "descriptions")
        self._infos = {name: np.full(self.num_envs, None, dtype=object) for name in names}
        if isinstance(first, MixedLevel):
            self._infos["kind"] = np.full(self.num_envs, None, dtype=object)
        for index in range(self.num_envs):
            self._infos["actions"][index] = ACTIONS

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Seen, dict[str, Any]]:
        """Begin an episode in every environment, or in those of ``options["reset_mask"]``.

        Args:
            seed: of environment 0, that of environment k is k more; or one for each.
            options: reset_mask, bool (num_envs,), may be among them; the others are for the levels.

        Raises:
            EnvError: seeds or mask do not fit the number of environments.
        """
        seeds = [seed + index for index in range(self.num_envs)] if isinstance(seed, int) else seed
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, dtype=np.bool_))
        if not isinstance(mask, np.ndarray) or mask.shape != (self.num_envs,) or mask.dtype != np.bool_:
            raise EnvError(f"Expected reset_mask to be an array of {self.num_envs} bools, got {mask!r:.80}.")
        if seeds is not None and len(seeds) != self.num_envs:
            raise EnvError(f"Expected {self.num_envs} seeds, got {len(seeds)}. Give one for each environment.")
        others = {name: value for name, value in (options or {}).items() if name != "reset_mask"} or None
        for index in np.flatnonzero(mask).tolist():
            self._begin(index, seeds[index] if seeds is not None else None, others)
        self._tell(np.flatnonzero(mask))
        return self._observe(), self._inform(mask)

    def step(self, actions: Any) -> tuple[Seen, Floats, Bools, Bools, dict[str, Any]]:
        """Take an action in every environment; what follows the end of an episode is up to the autoreset mode.

        Args:
            actions: int (num_envs,); indices into `ACTIONS`.

        Raises:
            EnvError: there is no such action, or an episode is over and was not reset.
        """
        taken = self._checked(actions)
        begins = np.zeros(self.num_envs, dtype=np.bool_)
        if self.autoreset_mode is AutoresetMode.NEXT_STEP:
            begins = self._is_over
            taken = np.where(begins, -1, taken)
        elif self.autoreset_mode is AutoresetMode.DISABLED and self._is_over.any():
            raise EnvError(
                f"Expected episodes that go on, but those of environments {np.flatnonzero(self._is_over).tolist()} are "
                "over. Call reset(options={'reset_mask': terminated | truncated}) first."
            )
        acted = taken >= 0
        changed = self._grid.act(taken)
        self._num_steps += acted
        terminated = self._mission.advance(taken)
        truncated = acted & (self._num_steps >= self._max_steps)
        rewards = np.where(terminated, 1 - 0.9 * (self._num_steps / self._max_steps), 0.0)
        self._is_over = terminated | truncated
        self._tell(np.flatnonzero(changed))
        finals: dict[str, Any] = {}
        if self.autoreset_mode is AutoresetMode.SAME_STEP and self._is_over.any():
            begins = self._is_over.copy()
            finals = self._finals(begins)
        for index in np.flatnonzero(begins).tolist():
            self._begin(index, None, None)
        self._tell(np.flatnonzero(begins))
        return self._observe(), rewards, terminated, truncated, self._inform(None) | finals

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Return an attribute of each level: a setting, or what was drawn; where agents are now is none of these."""
        return tuple(getattr(level, name) for level in self._levels)

    def close_extras(self, **kwargs: Any) -> None:
        """Close the levels."""
        for level in self._levels:
            level.close()

    def _begin(self, index: int, seed: int | None, options: dict[str, Any] | None) -> None:
        """Draw an episode and take it over."""
        level = self._levels[index]
        level.reset(seed=seed, options=options)
        numbers = self._grid.load(index, level)
        self._mission.load(index, level.instrs, numbers)
        self._num_steps[index], self._max_steps[index] = 0, level.max_steps
        self._is_over[index] = False
        self._missions[index] = translate_mission(level.mission, self._mission_language)
        if "kind" in self._infos:
            self._infos["kind"][index] = level.kind

    def _tell(self, rows: Ints) -> None:
        """Make the texts or images of some environments anew."""
        if not len(rows):
            return
        views = self._grid.views(rows)
        if self._text is None:
            self._images[rows] = images_of(views)
            return
        told = self._text.describe(views)
        descriptions = self._infos["descriptions"]
        for index, sentences in zip(rows.tolist(), told, strict=True):
            descriptions[index] = sentences
            self._texts[index] = ", ".join(sentences)

    def _observe(self) -> Seen:
        if self._text is None:
            return {"image": self._images.copy(), "mission": tuple(self._missions)}
        return {"mission": tuple(self._missions), "text": tuple(self._texts)}

    def call(self, name: str) -> tuple[int, ...]:
        """Call a method of every level: "state_key", which is all that is known of their states here.

        Raises:
            AttributeError: another method is asked for.
        """
        if name != "state_key":
            raise AttributeError(f"Expected 'state_key', found {name!r}: a level knows nothing of its batch.")
        return self._grid.state_keys()

    def _inform(self, mask: Bools | None) -> dict[str, Any]:
        """Return the infos of the environments of a mask, of all where it is None, in Gymnasium's form."""
        infos: dict[str, Any] = {}
        for name, values in self._infos.items():
            infos[name] = values.copy()
            if mask is not None:
                infos[name][~mask] = None
            infos[f"_{name}"] = np.ones(self.num_envs, dtype=np.bool_) if mask is None else mask.copy()
        return infos

    def _finals(self, mask: Bools) -> dict[str, Any]:
        """Return the last observations and infos of the episodes that are over."""
        last = np.full(self.num_envs, None, dtype=object)
        for index in np.flatnonzero(mask).tolist():
            seen = {"text": self._texts[index]} if self._text is not None else {"image": self._images[index].copy()}
            last[index] = {"mission": self._missions[index], **seen}
        final_info = self._inform(mask)
        return {"final_obs": last, "_final_obs": mask.copy(), "final_info": final_info, "_final_info": mask.copy()}

    def _checked(self, actions: Any) -> Ints:
        found = np.asarray(actions)
        if found.shape != (self.num_envs,) or found.dtype.kind not in "iu":
            raise EnvError(
                f"Expected {self.num_envs} integers as actions, got {found.dtype} {found.shape}. Give one for each "
                "environment."
            )
        is_unknown = (found < 0) | (found >= len(ACTIONS))
        if is_unknown.any():
            raise EnvError(
                f"Expected actions from 0 to {len(ACTIONS) - 1}, got {found[is_unknown][0]}. Its text is that at this "
                f"place in {ACTIONS}."
            )
        return found.astype(np.int64)
