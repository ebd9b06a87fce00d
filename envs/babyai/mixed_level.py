"""MixedTrainLocal and MixedTestLocal of the GLAM paper (Carta et al. 2023). Knows no texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gymnasium.utils import seeding
from minigrid.envs.babyai.core.roomgrid_level import RoomGridLevel
from minigrid.envs.babyai.core.verifier import GoToInstr, Instr, PickupInstr

from llmgym.envs.babyai.levels import KINDS
from llmgym.envs.babyai.local_missions import (
    draw_mission,
    draw_put_next,
    draw_sequence,
    draw_single,
    draw_unlock,
)
from llmgym.errors import EnvError, did_you_mean

__all__ = ["MixedLevel"]

_DRAWS: dict[str, Callable[[RoomGridLevel, int, bool], Instr]] = {
    "goto": lambda level, num_dists, held_out: draw_single(level, num_dists + 1, GoToInstr),
    "pickup": lambda level, num_dists, held_out: draw_single(level, num_dists + 1, PickupInstr),
    "open": lambda level, num_dists, held_out: draw_unlock(level, num_dists, held_out=held_out),
    "putnext": lambda level, num_dists, held_out: draw_put_next(level, num_dists + 2),
    "pick_up_seq_go_to": lambda level, num_dists, held_out: draw_sequence(level, num_dists + 2, "either", GoToInstr),
}


class MixedLevel(RoomGridLevel):  # type: ignore[misc]  # minigrid is not typed
    """Go to an object, pick one up, put one next to another, do two of these, or unlock a door: in one or two rooms.

    Attributes:
        kind: the kind of the missions, one of `KINDS`; None where it is drawn and no episode has begun.
        num_dists: number of distractors.
        held_out: whether missions name the held-out objects only, or never.
    """

    def __init__(
        self,
        *,
        kind: str | None = None,
        num_dists: int = 8,
        held_out: bool = False,
        redraws_kind: bool = False,
        room_size: int = 8,
        **settings: Any,
    ) -> None:
        """Make the level.

        Args:
            kind: one of `KINDS`, also with spaces as in the paper's code; None draws one.
            num_dists: objects besides the mission's own.
            held_out: name the colours and types that training missions never name, and no others.
            redraws_kind: draw a kind for every episode, from its seed. Otherwise one is drawn when the first episode
                begins, from its seed, and kept, whatever the seeds of later episodes.
            room_size: cells of a room's side, walls included.
            settings: of every level, such as max_steps or render_mode.

        Raises:
            EnvError: there is no such kind, or the number of distractors is negative.
        """
        self.kind = _checked(kind)
        if num_dists < 0:
            raise EnvError(f"Expected num_dists >= 0, got {num_dists}. Give the number of distractors.")
        self.num_dists = num_dists
        self.held_out = held_out
        self._draws_kind = kind is None
        self._redraws_kind = redraws_kind
        super().__init__(room_size=room_size, num_rows=1, num_cols=1, **settings)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Draw an episode: its kind first where that is to be drawn, with random numbers of its own."""
        if self._draws_kind and (self.kind is None or self._redraws_kind):
            generator = self.np_random if seed is None else seeding.np_random(seed)[0]
            # A spawned generator leaves the room's random numbers as they are when the kind is given.
            self.kind = KINDS[int(generator.spawn(1)[0].integers(len(KINDS)))]
        self.num_cols = 2 if self.kind == "open" else 1
        self.width = (self.room_size - 1) * self.num_cols + 1
        return super().reset(seed=seed, options=options)

    def gen_mission(self) -> None:
        """Draw rooms and missions until they fit together."""
        assert self.kind is not None, "the kind is drawn before the room"
        draw = _DRAWS[self.kind]
        self.instrs = draw_mission(
            self, lambda level: draw(level, self.num_dists, self.held_out), held_out=self.held_out
        )


def _checked(kind: str | None) -> str | None:
    if kind is None:
        return None
    name = kind.replace(" ", "_") if isinstance(kind, str) else kind
    if name not in KINDS:
        hint = did_you_mean(str(kind), KINDS)
        raise EnvError(f"Expected kind to be one of {', '.join(KINDS)}, or None to draw one, got {kind!r}.{hint}")
    return name
