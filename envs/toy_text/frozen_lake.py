"""FrozenLake in words: the tile that the agent stands on, and what lies around it."""

from __future__ import annotations

from dataclasses import dataclass

import gymnasium
from gymnasium.envs.toy_text.frozen_lake import MAPS

from llmgym.errors import EnvError
from llmgym.text.text_env import TextEnv

__all__ = ["make"]

_TILES = {"S": "the start", "F": "ice", "H": "a hole", "G": "the goal"}
_SHORE = "the shore"
_MOVES = {"left": (0, -1), "down": (1, 0), "right": (0, 1), "up": (-1, 0)}


def make(*, is_slippery: bool = True, map_name: str = "4x4", render_mode: str | None = None) -> TextEnv:
    """Make a frozen lake.

    Args:
        is_slippery: whether a step goes in its direction only one time in three, and sideways else.
        map_name: "4x4" or "8x8".
        render_mode: of Gymnasium's environment.

    Raises:
        EnvError: there is no such map.
    """
    if map_name not in MAPS:
        raise EnvError(f"Expected map_name to be one of {', '.join(MAPS)}, got {map_name!r}.")
    lake = gymnasium.make(
        "FrozenLake-v1", is_slippery=is_slippery, map_name=map_name, render_mode=render_mode, disable_env_checker=True
    ).unwrapped
    tiles = tuple(MAPS[map_name])
    ice = " The ice is slippery." if is_slippery else ""
    mission = f"reach the goal in row {len(tiles)}, column {len(tiles[0])} without falling into a hole.{ice}"
    describe = _Lake(tiles)
    actions = tuple(f"go {name}" for name in _MOVES)
    return TextEnv(lake, describe, actions, mission=mission, phrases=describe.phrases)


@dataclass(frozen=True, slots=True)
class _Lake:
    """Describe a place on a lake; lakes of the same tiles are equal, which Gymnasium asks of what is made again."""

    tiles: tuple[str, ...]

    def __call__(self, cell: int) -> str:
        row, column = divmod(int(cell), len(self.tiles[0]))
        sights = [f"{name}: {self._tile(row + down, column + right)}" for name, (down, right) in _MOVES.items()]
        here = f"You stand on {_TILES[self.tiles[row][column]]}{_place(row, column)}"
        return ", ".join([here, *sights])

    @property
    def phrases(self) -> tuple[str, ...]:
        """The places, and what can lie in each direction."""
        places = [_place(row, column) for row in range(len(self.tiles)) for column in range(len(self.tiles[0]))]
        seen = [*_TILES.values(), _SHORE]
        return (*places, *(f", {name}: {tile}" for name in _MOVES for tile in seen))

    def _tile(self, row: int, column: int) -> str:
        is_inside = 0 <= row < len(self.tiles) and 0 <= column < len(self.tiles[0])
        return _TILES[self.tiles[row][column]] if is_inside else _SHORE


def _place(row: int, column: int) -> str:
    return f" in row {row + 1}, column {column + 1}"
