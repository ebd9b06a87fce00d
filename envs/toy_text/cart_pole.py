"""CartPole in words: how far and how fast the cart and its pole move, in steps that can be said."""

from __future__ import annotations

import math
from collections.abc import Sequence

import gymnasium
import numpy as np
import numpy.typing as npt

from llmgym.text.text_env import TextEnv

__all__ = ["make"]

_SPEEDS = ((0.05, "stands still"), (0.5, "moves slowly"), (1.5, "moves"), (math.inf, "moves fast"))
"""What is said of a speed below the number, in units a second."""
_TURNS = ((0.05, "does not turn"), (0.5, "turns slowly"), (1.5, "turns"), (math.inf, "turns fast"))
"""The same of radians a second."""


def make(*, render_mode: str | None = None) -> TextEnv:
    """Make a cart with a pole.

    Args:
        render_mode: of Gymnasium's environment.
    """
    cart = gymnasium.make("CartPole-v1", render_mode=render_mode, disable_env_checker=True).unwrapped
    mission = "keep the pole upright and the cart within 2.4 units of the middle"
    return TextEnv(cart, _describe, ("push left", "push right"), mission=mission)


def _describe(observation: npt.NDArray[np.float32]) -> str:
    place, speed, angle, turn = (float(number) for number in observation)
    where = f"{abs(place):.1f} units {_side(place)} of the middle" if abs(place) >= 0.05 else "in the middle"
    degrees = math.degrees(angle)
    leans = f"leans {abs(degrees):.1f} degrees to the {_side(angle)}" if abs(degrees) >= 0.05 else "stands upright"
    return f"The cart is {where} and {_motion(speed, _SPEEDS)}. The pole {leans} and {_motion(turn, _TURNS)}."


def _motion(value: float, words: Sequence[tuple[float, str]]) -> str:
    limit, text = next((limit, text) for limit, text in words if abs(value) < limit)
    return text if limit == words[0][0] else f"{text} to the {_side(value)}"


def _side(value: float) -> str:
    return "left" if value < 0 else "right"
