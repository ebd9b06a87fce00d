"""Blackjack in words: the hand, and the dealer's card."""

from __future__ import annotations

import gymnasium

from llmgym.text.text_env import TextEnv

__all__ = ["make"]


def make(*, natural: bool = False, sab: bool = True, render_mode: str | None = None) -> TextEnv:
    """Make a game of cards.

    Args:
        natural: whether an ace and a ten dealt first win half as much again, where sab is not set.
        sab: play by the rules of Sutton and Barto's book exactly.
        render_mode: of Gymnasium's environment.
    """
    game = gymnasium.make(
        "Blackjack-v1", natural=natural, sab=sab, render_mode=render_mode, disable_env_checker=True
    ).unwrapped
    return TextEnv(game, _describe, ("stick", "hit"), mission="beat the dealer without going over 21")


def _describe(observation: tuple[int, int, int]) -> str:
    total, dealer, has_usable_ace = (int(number) for number in observation)
    card = "an ace" if dealer == 1 else "an 8" if dealer == 8 else f"a {dealer}"
    if total > 21:
        return f"You hold {total} and are over 21. The dealer shows {card}."
    ace = " with an ace that counts 11" if has_usable_ace else ""
    return f"You hold {total}{ace}. The dealer shows {card}."
