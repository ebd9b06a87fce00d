"""Whether missions are fulfilled, for many environments at once, with minigrid's rules. Knows no texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from minigrid.core.world_object import WorldObj
from minigrid.envs.babyai.core.verifier import (
    AfterInstr,
    BeforeInstr,
    GoToInstr,
    Instr,
    ObjDesc,
    OpenInstr,
    PickupInstr,
    PutNextInstr,
)

from llmgym.envs.babyai.batch_grid import LEFT, BatchGrid
from llmgym.errors import EnvError

__all__ = ["BatchMission"]

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_PICK_UP, _DROP, _TOGGLE = 3, 4, 5
_SORTS: dict[type[Instr], int] = {GoToInstr: 1, PickupInstr: 2, OpenInstr: 3, PutNextInstr: 4}
_GO_TO, _PICKUP, _OPEN, _PUT_NEXT = _SORTS.values()


class BatchMission:
    """The missions of B environments: one instruction each, or two of them one after the other.

    An instruction knows the things that are to be taken, opened or moved (wanted), and those whose cells count
    (watched): where one is to go, or what something is to be put next to. Watched cells are remembered, and looked up
    again only when something is dropped, as in minigrid.
    """

    def __init__(self, grid: BatchGrid) -> None:
        """Keep missions for the environments of a grid."""
        num_envs, num_things = grid.looks.shape
        self._grid = grid
        self._rows = np.arange(num_envs)
        self._is_first_done = np.ones(num_envs, dtype=np.bool_)
        self._sorts = np.zeros((2, num_envs), dtype=np.int64)
        self._wanted = np.zeros((2, num_envs, num_things), dtype=np.bool_)
        self._watched = np.zeros((2, num_envs, num_things), dtype=np.bool_)
        self._remembered = np.full((2, num_envs, num_things), LEFT)
        self._carried_before = np.zeros((2, num_envs), dtype=np.int64)

    def load(self, index: int, mission: Instr, numbers: Mapping[WorldObj, int]) -> None:
        """Take over a mission that was just drawn.

        Args:
            index: of the environment.
            mission: one or two instructions.
            numbers: of the things in the grid.

        Raises:
            EnvError: there are no rules here for missions of this sort.
        """
        self._make_room()
        parts = _parts(mission)
        self._is_first_done[index] = len(parts) == 1
        for slot, part in zip((1,) if len(parts) == 1 else (0, 1), parts, strict=True):
            if type(part) not in _SORTS or getattr(part, "strict", False):
                raise EnvError(f"Expected instructions that do not fail, got {part}. Step it one by one.")
            self._sorts[slot, index] = _SORTS[type(part)]
            self._carried_before[slot, index] = 0
            self._wanted[slot, index] = self._watched[slot, index] = False
            wanted, watched = _named(part)
            if not all(thing in numbers for thing in watched):
                raise EnvError(f"Expected missions about things, got {part} about walls. Step it one by one.")
            # "A grey object" may be a wall, which can be neither taken nor opened.
            self._wanted[slot, index, [numbers[thing] for thing in wanted if thing in numbers]] = True
            self._watched[slot, index, [numbers[thing] for thing in watched]] = True
        self._look_up(np.array([index]))

    def advance(self, actions: Ints) -> Bools:
        """Tell which missions the actions that were just taken have fulfilled; -1 stands for no action.

        Returns:
            bool (B,).
        """
        self._look_up(np.flatnonzero(actions == _DROP))
        acted = actions >= 0
        first = acted & ~self._is_first_done
        if first.any():
            self._is_first_done |= self._verify(0, actions, first)
        return self._verify(1, actions, acted & self._is_first_done)

    def _verify(self, slot: int, actions: Ints, asked: Bools) -> Bools:
        """Tell which of the environments asked for have their first (0) or last (1) instruction done by an action."""
        grid, rows = self._grid, self._rows
        sorts, wanted, remembered = self._sorts[slot], self._wanted[slot], self._remembered[slot]
        before = self._carried_before[slot].copy()
        self._carried_before[slot, asked] = grid.carried[asked]
        ahead = grid.ahead()
        thing_ahead = grid.cells[rows, ahead]
        goes = (sorts == _GO_TO) & (remembered == ahead[:, None]).any(axis=1)
        takes = (sorts == _PICKUP) & (actions == _PICK_UP) & (before == 0) & wanted[rows, grid.carried]
        is_open = grid.looks[rows, thing_ahead] >> 8 == 0
        opens = (sorts == _OPEN) & (actions == _TOGGLE) & wanted[rows, thing_ahead] & is_open
        puts = (sorts == _PUT_NEXT) & (actions == _DROP) & wanted[rows, before]
        if puts.any():
            cells = grid.places[rows, before]
            puts &= grid.are_neighbours(cells[:, None], remembered).any(axis=1)
        done: Bools = (goes | takes | opens | puts) & asked
        return done

    def _look_up(self, rows: Ints) -> None:
        """Remember where the watched things of some environments are now."""
        places = np.where(self._watched[:, rows], self._grid.places[rows], LEFT)
        self._remembered[:, rows] = places

    def _make_room(self) -> None:
        """Follow the grid when it makes room for more things."""
        missing = self._grid.looks.shape[1] - self._wanted.shape[2]
        if missing > 0:
            more = ((0, 0), (0, 0), (0, missing))
            self._wanted, self._watched = np.pad(self._wanted, more), np.pad(self._watched, more)
            self._remembered = np.pad(self._remembered, more, constant_values=LEFT)


def _parts(mission: Any) -> tuple[Instr, ...]:
    """Return the instructions of a mission in the order in which they are to be done."""
    if isinstance(mission, BeforeInstr) and not mission.strict:
        return mission.instr_a, mission.instr_b
    if isinstance(mission, AfterInstr) and not mission.strict:
        return mission.instr_b, mission.instr_a
    return (mission,)


def _named(part: Any) -> tuple[Iterable[WorldObj], Iterable[WorldObj]]:
    """Return the things that an instruction is about, wanted and watched."""
    if isinstance(part, PutNextInstr):
        return part.desc_move.obj_set, part.desc_fixed.obj_set
    things: ObjDesc = part.desc
    return ((), things.obj_set) if isinstance(part, GoToInstr) else (things.obj_set, ())
