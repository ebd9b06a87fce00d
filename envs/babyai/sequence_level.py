"""The GLAM paper's sequences of two missions in one room, among them its test of new compositions. Knows no texts."""

from __future__ import annotations

from typing import Any

from minigrid.envs.babyai.core.roomgrid_level import RoomGridLevel
from minigrid.envs.babyai.core.verifier import GoToInstr, PickupInstr

from llmgym.envs.babyai.local_missions import draw_mission, draw_sequence
from llmgym.errors import EnvError

__all__ = ["SequenceLevel"]

_ORDERS = ("then", "after", "either")
_SECONDS = {"go to": GoToInstr, "pick up": PickupInstr}


class SequenceLevel(RoomGridLevel):  # type: ignore[misc]  # minigrid is not typed
    """Pick up one object, then go to or pick up another; missions name no held-out object.

    Attributes:
        num_dists: number of distractors.
    """

    def __init__(self, *, order: str, second: str, num_dists: int = 8, room_size: int = 8, **settings: Any) -> None:
        """Make the level.

        Args:
            order: "then" for "pick up A, then ... B", "after" for "... B after you pick up A", "either" draws one.
            second: what is to be done with B, "go to" or "pick up".
            num_dists: objects besides the two.
            room_size: cells of the room's side, walls included.
            settings: of every level, such as max_steps or render_mode.

        Raises:
            EnvError: a setting is none of these.
        """
        if order not in _ORDERS or second not in _SECONDS or num_dists < 0:
            raise EnvError(
                f"Expected order among {_ORDERS}, second among {tuple(_SECONDS)} and num_dists >= 0, got {order!r}, "
                f"{second!r} and {num_dists}. Give values of these."
            )
        self.num_dists = num_dists
        self._order = order
        self._second = _SECONDS[second]
        super().__init__(room_size=room_size, num_rows=1, num_cols=1, **settings)

    def gen_mission(self) -> None:
        """Draw rooms and missions until they fit together."""
        self.instrs = draw_mission(
            self, lambda level: draw_sequence(level, self.num_dists + 2, self._order, self._second), held_out=False
        )
