"""CliffWalking in words: where one stands, and which ways lead over the edge."""

from __future__ import annotations

import gymnasium

from llmgym.text.text_env import TextEnv

__all__ = ["make"]

_NUM_ROWS, _NUM_COLUMNS = 4, 12
_MOVES = {"go up": (-1, 0), "go right": (0, 1), "go down": (1, 0), "go left": (0, -1)}


def make(*, is_slippery: bool = False, render_mode: str | None = None) -> TextEnv:
    """Make a way along a cliff.

    Args:
        is_slippery: whether a step goes in its direction only one time in three, and sideways else.
        render_mode: of Gymnasium's environment.
    """
    cliff = gymnasium.make(
        "CliffWalking-v1", is_slippery=is_slippery, render_mode=render_mode, disable_env_checker=True
    ).unwrapped

    mission = f"walk to row {_NUM_ROWS}, column {_NUM_COLUMNS} in as few steps as you can without falling off the cliff"
    return TextEnv(cliff, _describe, tuple(_MOVES), mission=mission)


def _describe(cell: int) -> str:
    row, column = divmod(int(cell), _NUM_COLUMNS)
    sights = [f"You stand in row {row + 1}, column {column + 1}"]
    for move, (down, right) in _MOVES.items():
        sights.append(f"if you {move} you {_outcome(row + down, column + right)}")
    return ", ".join(sights) + "."


def _outcome(row: int, column: int) -> str:
    if not (0 <= row < _NUM_ROWS and 0 <= column < _NUM_COLUMNS):
        return "stay where you are"
    if row < _NUM_ROWS - 1 or column == 0:
        return "are safe"
    return "are there" if column == _NUM_COLUMNS - 1 else "fall off the cliff"
