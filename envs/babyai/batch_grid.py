"""Many BabyAI grids at once, with numpy: what lies where, and what the actions do. Knows no missions, no texts."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from minigrid.core.world_object import WorldObj

from llmgym.envs.babyai.batch_view import (
    BOX,
    CARRIED,
    DOOR,
    EMPTY,
    MARGIN,
    WALL,
    look_of,
    see,
    view_offsets,
)
from llmgym.errors import EnvError
from llmgym.text.state_key import state_key

__all__ = ["LEFT", "BatchGrid"]

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Looks = npt.NDArray[np.uint16]

_LEFT, _RIGHT, _FORWARD, _PICK_UP, _DROP, _TOGGLE = range(6)
_TURNS = np.array((-1, 1, 0, 0, 0, 0, 0))
"""What an action adds to the direction; the last is that of doing nothing, -1."""

_GREY_WALL = look_of(WALL, 5, 0)
_NO_THING, _WALL_THING, _FIRST_THING = 0, 1, 2

LEFT = -1
"""The cell of a thing that lies in none: it is carried, or it was a box and is gone."""


class BatchGrid:
    """The grids of B environments. Things have numbers of their own in each: 0 is nothing, 1 any wall.

    Attributes:
        cells: int64 (B, num_cells); the thing in each cell. A cell's number is ``x * stride + y``, margins included.
        looks: uint16 (B, num_things); how each thing looks now.
        places: int64 (B, num_things); the cell of each thing, `LEFT` for none.
        position: int64 (B,); the agent's cell.
        direction: int64 (B,); where it looks, 0 to 3.
        carried: int64 (B,); the thing it carries.
    """

    def __init__(self, num_envs: int, width: int, height: int, num_things: int) -> None:
        """Make room for grids of at most width x height cells with num_things things each, walls counted as one."""
        self._stride = height + 2 * MARGIN
        self._shape = (width + 2 * MARGIN, self._stride)
        self._steps = np.array((self._stride, 1, -self._stride, -1))
        self._offsets = view_offsets(self._stride)
        self._rows = np.arange(num_envs)
        self.cells = np.full((num_envs, self._shape[0] * self._stride), _WALL_THING)
        self.looks = np.full((num_envs, num_things), EMPTY, dtype=np.uint16)
        self.looks[:, _WALL_THING] = _GREY_WALL
        self.places = np.full((num_envs, num_things), LEFT)
        self.position = np.full(num_envs, MARGIN * self._stride + MARGIN)
        self.direction = np.zeros(num_envs, dtype=np.int64)
        self.carried = np.zeros(num_envs, dtype=np.int64)

    def state_keys(self) -> tuple[int, ...]:
        """Return a number for the state of every grid: what lies where, how it looks, and the agent."""
        agents = np.stack([self.position, self.direction, self.carried], axis=1)
        rows = zip(self.cells, self.looks, agents, strict=True)
        return tuple(state_key(cells.tobytes(), looks.tobytes(), agent.tobytes()) for cells, looks, agent in rows)

    def load(self, index: int, level: Any) -> dict[WorldObj, int]:
        """Take over the grid and the agent of a level that was just reset, and return the numbers of its things.

        Raises:
            EnvError: there is something in it that this class knows no rules for.
        """
        numbers: dict[WorldObj, int] = {}
        grid = level.grid
        cells = [self._number(thing, numbers) for thing in grid.grid]
        if level.carrying is not None:
            raise EnvError(f"Expected {level} to begin with empty hands. Step it one by one.")
        self.cells[index] = _WALL_THING
        inside = slice(MARGIN, MARGIN + grid.width), slice(MARGIN, MARGIN + grid.height)
        self.cells[index].reshape(self._shape)[inside] = np.reshape(cells, (grid.height, grid.width)).T
        self._make_room(_FIRST_THING + len(numbers))
        self.looks[index, _FIRST_THING:] = EMPTY
        self.places[index] = LEFT
        for thing, number in numbers.items():
            self.looks[index, number] = look_of(*thing.encode())
        filled = np.flatnonzero(self.cells[index] >= _FIRST_THING)
        self.places[index, self.cells[index, filled]] = filled
        self.position[index] = self.cell(*level.agent_pos)
        self.direction[index] = level.agent_dir
        self.carried[index] = _NO_THING
        return numbers

    def cell(self, x: int, y: int) -> int:
        """Return the number of a cell from its place in minigrid's grid."""
        return (int(x) + MARGIN) * self._stride + int(y) + MARGIN

    def ahead(self) -> Ints:
        """Return int64 (B,): the cell in front of each agent."""
        cells: Ints = self.position + self._steps[self.direction]
        return cells

    def are_neighbours(self, cells: Ints, others: Ints) -> Bools:
        """Tell which pairs of cells lie side by side; `LEFT` lies beside none."""
        distance = np.abs(cells - others)
        found: Bools = ((distance == 1) | (distance == self._stride)) & (cells != LEFT) & (others != LEFT)
        return found

    def act(self, actions: Ints) -> Bools:
        """Take an action in every environment, none where it is -1.

        Returns:
            bool (B,): whether there is anything new to see.
        """
        ahead = self.ahead()
        thing = self.cells[self._rows, ahead]
        look = self.looks[self._rows, thing]
        kind, state = look & 15, look >> 8
        turn = _TURNS[actions]
        self.direction = (self.direction + turn) & 3
        moves = (actions == _FORWARD) & ((thing == _NO_THING) | ((kind == DOOR) & (state == 0)))
        self.position = np.where(moves, ahead, self.position)
        takes = (actions == _PICK_UP) & (self.carried == _NO_THING) & np.isin(kind, CARRIED)
        drops = (actions == _DROP) & (thing == _NO_THING) & (self.carried != _NO_THING)
        toggles = (actions == _TOGGLE) & ((kind == DOOR) | (kind == BOX))
        changed: Bools = (turn != 0) | moves | takes | drops
        self._take(np.flatnonzero(takes), ahead, thing)
        self._drop(np.flatnonzero(drops), ahead)
        for row in np.flatnonzero(toggles):
            changed[row] = self._toggle(row, ahead[row], thing[row], int(look[row]))
        return changed

    def views(self, rows: Ints) -> Looks:
        """Return uint16 (len(rows), 49): what the agents of some environments see."""
        cells = self.position[rows, None] + self._offsets[self.direction[rows]]
        things = self.cells[rows[:, None], cells]
        return see(self.looks[rows[:, None], things], self.looks[rows, self.carried[rows]])

    def _number(self, thing: WorldObj | None, numbers: dict[WorldObj, int]) -> int:
        if thing is None:
            return _NO_THING
        if thing.type == "wall" and thing.color == "grey":
            return _WALL_THING
        if thing.encode()[0] not in (DOOR, *CARRIED) or thing.contains is not None:
            raise EnvError(f"Expected walls, doors, keys, balls and empty boxes, found {thing}. Step it one by one.")
        return numbers.setdefault(thing, _FIRST_THING + len(numbers))

    def _make_room(self, num_things: int) -> None:
        """Widen what is kept of each thing."""
        missing = num_things - self.looks.shape[1]
        if missing > 0:
            self.looks = np.pad(self.looks, ((0, 0), (0, missing)), constant_values=EMPTY)
            self.places = np.pad(self.places, ((0, 0), (0, missing)), constant_values=LEFT)

    def _take(self, rows: Ints, ahead: Ints, thing: Ints) -> None:
        self.carried[rows] = thing[rows]
        self.places[rows, thing[rows]] = LEFT
        self.cells[rows, ahead[rows]] = _NO_THING

    def _drop(self, rows: Ints, ahead: Ints) -> None:
        self.cells[rows, ahead[rows]] = self.carried[rows]
        self.places[rows, self.carried[rows]] = ahead[rows]
        self.carried[rows] = _NO_THING

    def _toggle(self, row: int, ahead: int, thing: int, look: int) -> bool:
        """Open, close or unlock a door, or do away with an empty box; tell whether anything changed."""
        if look & 15 == BOX:
            self.cells[row, ahead] = _NO_THING
            self.places[row, thing] = LEFT
            return True
        color, state = look >> 4 & 15, look >> 8
        if state == 2 and self.looks[row, self.carried[row]] != look_of(CARRIED[0], color, 0):
            return False
        self.looks[row, thing] = look_of(DOOR, color, 1 if state == 0 else 0)
        return True
