"""Taxi in words: where the taxi is, where walls are, and where the passenger waits."""

from __future__ import annotations

import gymnasium
from gymnasium.envs.toy_text.taxi import MAP

from llmgym.text.text_env import TextEnv

__all__ = ["make"]

_SIDE = 5
_STANDS = {"red": (0, 0), "green": (0, 4), "yellow": (4, 0), "blue": (4, 3)}
"""Row and column of each stand, in the order of Gymnasium's states."""
_ACTIONS = ("drive south", "drive north", "drive east", "drive west", "pick up the passenger", "drop off the passenger")


def make(*, is_rainy: bool = False, fickle_passenger: bool = False, render_mode: str | None = None) -> TextEnv:
    """Make a town with a taxi.

    Args:
        is_rainy: whether the taxi drives sideways now and then.
        fickle_passenger: whether the passenger may want to go somewhere else on the way.
        render_mode: of Gymnasium's environment.
    """
    town = gymnasium.make(
        "Taxi-v4",
        is_rainy=is_rainy,
        fickle_passenger=fickle_passenger,
        render_mode=render_mode,
        disable_env_checker=True,
    ).unwrapped

    return TextEnv(town, _describe, _ACTIONS, mission="take the passenger to where the passenger wants to go")


def _describe(state: int) -> str:
    place, destination = divmod(int(state), len(_STANDS))
    cell, passenger = divmod(place, len(_STANDS) + 1)
    row, column = divmod(cell, _SIDE)
    here = next((f", at the {name} stand" for name, stand in _STANDS.items() if stand == (row, column)), "")
    waits = "is in the taxi" if passenger == len(_STANDS) else f"waits at the {_stand(passenger)}"
    return (
        f"The taxi is in row {row + 1}, column {column + 1}{here}. The passenger {waits}. "
        f"The passenger wants to go to the {_stand(destination)}. "
        f"The road is open to the {', '.join(_open_ways(row, column))}."
    )


def _stand(number: int) -> str:
    name, (row, column) = list(_STANDS.items())[number]
    return f"{name} stand in row {row + 1}, column {column + 1}"


def _open_ways(row: int, column: int) -> list[str]:
    """Return the directions that neither a wall nor the end of the town closes."""
    # In the drawing of the town, row 0 is the frame, and what stands between two columns is a wall unless it is ":".
    drawn = MAP[row + 1]
    ways = {"south": row < _SIDE - 1, "north": row > 0}
    ways |= {"east": drawn[2 * column + 2] == ":", "west": drawn[2 * column] == ":"}
    return [name for name, is_open in ways.items() if is_open]
