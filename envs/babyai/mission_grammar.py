"""BabyAI's missions: their phrases, and their French. Knows how minigrid says them, but neither it nor environments."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from llmgym.envs.babyai.grammar import check_language
from llmgym.errors import EnvError

__all__ = ["mission_phrases", "translate_mission"]

_ARTICLES = {"the": "la", "a": "une"}
_NOUNS = {"key": "clef", "ball": "balle", "box": "boîte", "door": "porte", "object": "chose"}
_COLORS = {
    "red": "rouge",
    "green": "verte",
    "blue": "bleue",
    "purple": "violette",
    "yellow": "jaune",
    "grey": "grise",
}
_PLACES = {
    "in front of you": "devant toi",
    "behind you": "derrière toi",
    "on your left": "à ta gauche",
    "on your right": "à ta droite",
}
_VERBS = {
    "go to": ("aller à", "être allé à"),
    "pick up": ("ramasser", "avoir ramassé"),
    "open": ("ouvrir", "avoir ouvert"),
    "put": ("mettre", "avoir mis"),
}
"""What an instruction begins with, and what it does in French: to do so, to have done so."""


def _choice(words: Mapping[str, object]) -> str:
    return "|".join(map(re.escape, words))


_THING = re.compile(rf"({_choice(_ARTICLES)}) (?:({_choice(_COLORS)}) )?({_choice(_NOUNS)})(?: ({_choice(_PLACES)}))?")
_CLAUSE = re.compile(rf"({_choice(_VERBS)}) ({_THING.pattern})(?: next to ({_THING.pattern}))?")


def mission_phrases(language: str = "english") -> tuple[str, ...]:
    """Return what missions say around their things: verbs with articles, and what joins instructions.

    >>> mission_phrases()[:2]
    (' go to the', ' go to a')

    Raises:
        EnvError: there is no such language.
    """
    check_language(language)
    if language == "english":
        verbs, articles, joints = [*_VERBS, "next to"], [*_ARTICLES], (", then", " after you", " and")
    else:
        verbs = [verb for both in _VERBS.values() for verb in both] + ["à côté de"]
        articles, joints = [*_ARTICLES.values()], (", puis", " après", " et")
    return (*(f" {verb} {article}" for verb in verbs for article in articles), *joints)


@lru_cache(maxsize=4096)
def translate_mission(mission: str, language: str = "french") -> str:
    """Return a mission in a language.

    The paper's French prompts say the missions of one instruction so; its environment keeps them in English.

    >>> translate_mission("go to the red ball after you pick up a grey key")
    'aller à la balle rouge après avoir ramassé une clef grise'

    Args:
        mission: as minigrid says it, in English.
        language: "english", which changes nothing, or "french".

    Raises:
        EnvError: it is no mission of BabyAI, or there is no such language.
    """
    check_language(language)
    if language == "english":
        return mission
    if " after you " in mission:
        second, _, first = mission.partition(" after you ")
        return f"{_translate(second, mission)} après {_translate(first, mission, is_past=True)}"
    return ", puis ".join(_translate(part, mission) for part in mission.split(", then "))


def _translate(part: str, mission: str, *, is_past: bool = False) -> str:
    """Return instructions joined by "and" in French."""
    return " et ".join(_translate_clause(clause, mission, is_past) for clause in part.split(" and "))


def _translate_clause(clause: str, mission: str, is_past: bool) -> str:
    found = _CLAUSE.fullmatch(clause)
    if found is None:
        raise EnvError(
            f"Expected a mission such as 'go to the red ball, then open a door', got {mission!r}, where {clause!r} is "
            "not understood. Give it as minigrid says it."
        )
    verb, thing, other = found[1], found[2], found[7]
    words = f"{_VERBS[verb][is_past]} {_translate_thing(thing)}"
    return f"{words} à côté de {_translate_thing(other)}" if other else words


def _translate_thing(thing: str) -> str:
    found = _THING.fullmatch(thing)
    assert found is not None, "a part of a clause that has matched"
    article, color, noun, place = found.groups()
    words = (_ARTICLES[article], _NOUNS[noun], _COLORS.get(color), _PLACES.get(place))
    return " ".join(word for word in words if word)
