"""PickupLocal and UnlockMedium of the GLAM paper's code: one action, on a thing named by its colour. Knows no texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minigrid.core.constants import COLOR_NAMES
from minigrid.envs.babyai.core.levelgen import LevelGen
from minigrid.envs.babyai.core.verifier import OBJ_TYPES, ObjDesc

__all__ = ["ColoredLevel"]


class ColoredLevel(LevelGen):  # type: ignore[misc]  # minigrid is not typed
    """A `LevelGen` of one row of rooms whose missions always say the colour of what they are about."""

    def __init__(
        self, *, action: str, num_dists: int = 8, num_cols: int = 1, room_size: int = 8, **settings: Any
    ) -> None:
        """Make the level.

        Args:
            action: "goto", "pickup", "open" or "putnext".
            num_dists: number of objects.
            num_cols: number of rooms.
            room_size: cells of a room's side, walls included.
            settings: of every `LevelGen`, such as locked_room_prob, max_steps or render_mode.
        """
        super().__init__(
            room_size=room_size,
            num_rows=1,
            num_cols=num_cols,
            num_dists=num_dists,
            locations=False,
            unblocking=False,
            action_kinds=(action,),
            instr_kinds=("action",),
            **settings,
        )

    def add_locked_room(self) -> None:
        """Lock a room, unless it is the only one: minigrid would look for a neighbour for ever."""
        if self.num_cols > 1:
            super().add_locked_room()

    def rand_obj(
        self, types: Sequence[str] = OBJ_TYPES, colors: Sequence[str] = COLOR_NAMES, max_tries: int = 100
    ) -> ObjDesc:
        """Draw colour and type until something fits.

        Raises:
            RecursionError: nothing did; the level draws another room then.
        """
        for _ in range(max_tries + 1):
            color, kind = self._rand_elem(colors), self._rand_elem(types)
            desc = ObjDesc(kind, color)
            if desc.find_matching_objs(self)[0]:
                return desc
        raise RecursionError("nothing fits a description")
