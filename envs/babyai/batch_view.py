"""What many agents see at once: minigrid's view of 7 x 7 cells and its occlusion, with numpy.

A cell's look is one number, ``object + 16 * color + 256 * state`` in minigrid's indices. Knows no actions, no texts.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

__all__ = [
    "AGENT_CELL",
    "BOX",
    "CARRIED",
    "DOOR",
    "EMPTY",
    "MARGIN",
    "SIDE",
    "WALL",
    "images_of",
    "look_of",
    "see",
    "view_offsets",
]

Ints = npt.NDArray[np.int64]
Looks = npt.NDArray[np.uint16]

SIDE = 7
MARGIN = SIDE - 1
"""Cells of wall around a grid, so that every view lies inside."""
AGENT_CELL = SIDE * (SIDE // 2) + SIDE - 1
"""Where the agent stands in a view whose cells are numbered 7 * column + row."""

EMPTY, WALL, DOOR, BOX = 1, 2, 4, 7
CARRIED = (5, 6, 7)
"""Objects that can be picked up: keys, balls, boxes."""

_AHEAD = ((1, 0), (0, 1), (-1, 0), (0, -1))
"""Where directions 0 to 3 lead, in x and y."""


def look_of(kind: int, color: int, state: int) -> int:
    """Return the look of a cell from the three numbers that minigrid encodes it with."""
    return kind + 16 * color + 256 * state


def images_of(views: Looks) -> npt.NDArray[np.uint8]:
    """Return uint8 (B, 7, 7, 3): views, uint16 (B, 49), in minigrid's encoding (object, color, state) of a cell."""
    parts = np.stack((views & 15, views >> 4 & 15, views >> 8), axis=-1)
    return parts.astype(np.uint8).reshape(len(views), SIDE, SIDE, 3)


def view_offsets(height: int) -> Ints:
    """Return int64 (4, 49): for each direction, how far each cell of the view lies from the agent's.

    Args:
        height: cells of a column of the grid, margins included; a cell's number is ``x * height + y``.
    """
    offsets = np.zeros((4, SIDE * SIDE), dtype=np.int64)
    for direction, (dx, dy) in enumerate(_AHEAD):
        for column in range(SIDE):
            for row in range(SIDE):
                ahead, right = SIDE - 1 - row, column - SIDE // 2
                x, y = dx * ahead - dy * right, dy * ahead + dx * right
                offsets[direction, SIDE * column + row] = x * height + y
    return offsets


def see(looks: Looks, carried: Looks) -> Looks:
    """Return what is seen: 0 where a wall or a closed door hides a cell, and what is carried in the agent's own cell.

    Args:
        looks: uint16 (B, 49); what is in the cells of each view.
        carried: uint16 (B,); the look of what each agent carries, that of an empty cell where it carries nothing.
    """
    num_views = len(looks)
    seen_row, lit_row = _row_tables()
    opaque = _opaque_looks()[looks].reshape(num_views, SIDE, SIDE)
    # Bit c of row r tells about the cell in column c.
    opaque_rows = np.packbits(opaque.transpose(0, 2, 1), axis=2, bitorder="little")[:, :, 0]
    seen_rows = np.empty((num_views, SIDE), dtype=np.uint8)
    lit = np.full(num_views, 1 << SIDE // 2, dtype=np.uint8)
    for row in range(SIDE - 1, -1, -1):
        seen_rows[:, row] = seen_row[lit, opaque_rows[:, row]]
        lit = lit_row[lit, opaque_rows[:, row]]
    is_seen = np.unpackbits(seen_rows[:, :, None], axis=2, count=SIDE, bitorder="little")
    seen = looks * is_seen.transpose(0, 2, 1).reshape(num_views, SIDE * SIDE)
    seen[:, AGENT_CELL] = carried
    return seen


@cache
def _opaque_looks() -> npt.NDArray[np.bool_]:
    """Return bool (1024,): whether one cannot see behind a look."""
    looks = np.arange(1024)
    kinds, states = looks & 15, looks >> 8
    opaque: npt.NDArray[np.bool_] = (kinds == WALL) | ((kinds == DOOR) & (states > 0))
    return opaque


@cache
def _row_tables() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Tabulate one row of minigrid's `Grid.process_vis`.

    Returns:
        uint8 (128, 128) twice, indexed by the cells of a row that light reaches from below and the opaque ones, each as
        bits: the cells that are seen, and the cells of the next row that light reaches.
    """
    seen_row = np.zeros((1 << SIDE, 1 << SIDE), dtype=np.uint8)
    lit_row = np.zeros_like(seen_row)
    for lit in range(1 << SIDE):
        for opaque in range(1 << SIDE):
            seen, above = lit, 0
            # First from left to right, all but the last column, then back, all but the first.
            for column, beside in [(c, c + 1) for c in range(SIDE - 1)] + [(c, c - 1) for c in range(SIDE - 1, 0, -1)]:
                if seen >> column & 1 and not opaque >> column & 1:
                    seen |= 1 << beside
                    above |= 1 << beside | 1 << column
            seen_row[lit, opaque], lit_row[lit, opaque] = seen, above
    return seen_row, lit_row
