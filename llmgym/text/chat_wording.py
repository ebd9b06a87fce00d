"""Wordings: what a conversation about an environment says. Knows neither models nor tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["WORDINGS", "ChatWording", "exact_action", "fill", "letters_of"]

_PLACES = re.compile(r"(\{(?:mission|actions|text|action)\})")


@dataclass(frozen=True)
class ChatWording:
    """What the user of a conversation, who stands for the environment, says.

    In these texts {mission} is what the agent is to do, {text} an observation, {actions} the actions open now, with
    commas between, and {action} the action that was taken where an answer named none.

    Attributes:
        instruction: the first message; {mission} and the first {actions}.
        observation: a later message; {text}.
        current: the last message, in the place of observation; {text} and {actions}.
        invalid: put before an observation that follows an answer that named no action; {action}.
        replace: pairs of texts; the first of each is replaced by the second in every observation, in this order.
        letters_only: whether answers of "text" are shown afterwards with nothing but letters, white space and colons.
    """

    instruction: str = "You act in a text environment, one action at a time. Your goal: {mission}"
    observation: str = "{text}"
    current: str = "{text}\n\nPossible actions: {actions}\nAnswer with one of them and nothing else."
    invalid: str = "Your last answer named no possible action; this was done instead: {action}\n\n"
    replace: tuple[tuple[str, ...], ...] = ()
    letters_only: bool = False

    def observed(self, text: str, defaulted: str | None = None) -> str:
        """Return an observation as messages tell it.

        Args:
            text: what was observed.
            defaulted: the action that was taken because the answer before named none; None where it named one.
        """
        for old, new in self.replace:
            text = text.replace(old, new)
        return text if defaulted is None else fill(self.invalid, action=defaulted) + text


BALROG_ACTIONS = (
    ("turn left", "turn to the left"),
    ("turn right", "turn to the right"),
    ("go forward", "take one step forward"),
    ("pick up", "pick up the object below you"),
    ("drop", "drop the object that you are holding"),
    ("toggle", "manipulate the object in front of you"),
)

BALROG = ChatWording(
    instruction=(
        "You are an agent playing a simple navigation game. Your goal is to {mission}. The following are the possible "
        "actions you can take in the game, followed by a short description of each action:\n\n"
        + ",\n".join(f"{action}: {meaning}" for action, meaning in BALROG_ACTIONS)
        + ".\n\nIn a moment I will present you an observation.\n\nTips:\n"
        "- Once the desired object you want to interact or pickup in front of you, you can use the 'toggle' action to "
        "interact with it.\n"
        "- It doesn't make sense to repeat the same action over and over if the observation doesn't change.\n\nPLAY!"
    ),
    observation="Observation:\n{text}",
    current=(
        "Current Observation:\n{text}\n\nYou always have to output one of the above actions at a time and no other "
        "text. You always have to output an action until the episode terminates."
    ),
    invalid=(
        "\n\nYour previous output did not contain a valid action. Defaulted to action: {action}\n\nObservation:\n"
    ),
    # BabyAI's sentences hold no ", " themselves.
    replace=((", ", "\n"), ("You see ", "")),
    letters_only=True,
)

WORDINGS: dict[Literal["plain", "balrog"], ChatWording] = {"plain": ChatWording(), "balrog": BALROG}
"""Wordings by name: "plain" fits any environment; "balrog" is that of BALROG's naive agent on BabyAI-Text (Paglieri et
al. 2024, https://arxiv.org/abs/2411.13543), as in the authors' code since January 2025."""


def fill(wording: str, *, mission: str = "", text: str = "", actions: Sequence[str] = (), action: str = "") -> str:
    """Fill in the places of a wording; what is filled in is taken as it is, braces and all."""
    found = {"{mission}": mission, "{text}": text, "{actions}": ", ".join(actions), "{action}": action}
    return "".join(found.get(piece, piece) for piece in _PLACES.split(wording))


def letters_of(answer: str) -> str:
    """Return an answer as BALROG reads it: first without white space around, then without what is no letter.

    White space and colons inside stay too.

    >>> letters_of(" **go forward**. ")
    'go forward'
    """
    return re.sub(r"[^a-zA-Z\s:]", "", answer.strip())


def exact_action(answer: str, actions: Sequence[str]) -> int | None:
    """Return the index of the action that an answer is, letter for letter, by BALROG's reading; else None.

    >>> exact_action("go forward.", ["turn left", "go forward"])
    1
    >>> exact_action("Go forward", ["turn left", "go forward"]) is None
    True
    """
    letters = letters_of(answer)
    return list(actions).index(letters) if letters in actions else None
