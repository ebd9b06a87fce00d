"""BabyAI-Text's sentences (Carta et al. 2023, https://arxiv.org/abs/2302.02662) as a function of what minigrid shows.

Knows the symbols of minigrid's image, but neither minigrid nor environments.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt

from llmgym.errors import EnvError, did_you_mean

__all__ = ["check_language", "describe", "fixed_phrases"]

_SIDE = 7
_AGENT = _SIDE * (_SIDE // 2) + _SIDE - 1
"""Index of the agent's cell. A cell's index is 7 * column + row; the agent stands in column 3, row 6, looking up."""

_EMPTY, _WALL, _DOOR = 1, 2, 4
_CARRIED = frozenset((5, 6, 7))
_RAYS = (range(_AGENT - 1, _AGENT - _SIDE, -1), range(_AGENT - _SIDE, -1, -_SIDE), range(_AGENT + _SIDE, 49, _SIDE))
"""Cells straight ahead, to the left and to the right of the agent, near to far."""


@dataclass(frozen=True, slots=True)
class _Grammar:
    """The words of a language. Nouns and colours stand at minigrid's index; the three sides are those of `_RAYS`.

    carry, wall, thing and door are format strings (a place stands behind the last two); two_sides joins the places
    beside and ahead of the agent. The first of the articles is the one that the paper always takes; the second stands
    before a vowel in English, and before the nouns of other_gender, with the colours in other_colors, in French.
    """

    nouns: tuple[str, ...]
    colors: tuple[str, ...]
    other_gender: frozenset[str]
    other_colors: tuple[str, ...]
    articles: tuple[str, str]
    states: tuple[str, ...]
    sides: tuple[str, str, str]
    step: str
    steps: str
    carry: str
    wall: str
    thing: str
    door: str
    two_sides: str


_ENGLISH = _Grammar(
    nouns=("unseen", "empty", "wall", "floor", "door", "key", "ball", "box", "goal", "lava", "agent"),
    colors=("red", "green", "blue", "purple", "yellow", "grey"),
    other_gender=frozenset(),
    other_colors=(),
    articles=("a", "an"),
    states=("open", "closed", "locked"),
    sides=("forward", "left", "right"),
    step="{} step {}",
    steps="{} steps {}",
    carry="You carry {article} {color} {noun}",
    wall="You see a wall {place}",
    thing="You see {article} {color} {noun}",
    door="You see {article} {state} {color} {noun}",
    two_sides="{} and {}",
)
_FRENCH = _Grammar(
    nouns=("non visible", "vide", "mur", "sol", "porte", "clef", "balle", "boîte", "but", "lave", "agent"),
    colors=("rouge", "verte", "bleue", "violette", "jaune", "grise"),
    other_gender=frozenset(("mur", "sol", "but", "agent")),
    other_colors=("rouge", "vert", "bleu", "violet", "jaune", "gris"),
    articles=("une", "un"),
    states=("ouverte", "fermée", "fermée à clef"),
    sides=("devant", "à gauche", "à droite"),
    step="{} pas {}",
    steps="{} pas {}",
    carry="Tu portes {article} {noun} {color}",
    wall="Tu vois un mur à {place}",
    thing="Tu vois {article} {noun} {color}",
    door="Tu vois {article} {noun} {color} {state}",
    two_sides="{} et {}",
)
_GRAMMARS = {"english": _ENGLISH, "french": _FRENCH}


def describe(image: npt.NDArray[np.uint8], language: str = "english", *, parity: bool = True) -> list[str]:
    """Say in sentences what an image shows: what is carried, the walls straight ahead, left and right, the objects.

    Args:
        image: uint8 (7, 7, 3); object, color and state of each cell of the agent's view, as minigrid observes it.
        language: "english" or "french".
        parity: say it as the paper's environment, to the letter: "a open door" is said, and what is carried has English
            words in the French sentences. Otherwise articles, genders and words are as they should be.

    Returns:
        Sentences in this order: carried object; wall ahead, left, right; objects by column, left to right, and inside a
        column far to near. Empty where nothing is seen.

    Raises:
        EnvError: the image has another shape, dtype or symbols, or there is no such language.
    """
    if not isinstance(image, np.ndarray) or image.shape != (_SIDE, _SIDE, 3) or image.dtype != np.uint8:
        raise EnvError(_wrong_image(image))
    check_language(language)
    symbols = image.tobytes()
    kinds = symbols[::3]
    sentences = []
    if kinds[_AGENT] in _CARRIED:
        sentences.append(_carry_sentence(language, parity, *symbols[3 * _AGENT : 3 * _AGENT + 2]))
    for side, ray in enumerate(_RAYS):
        for distance, cell in enumerate(ray, 1):
            if kinds[cell] > _EMPTY:
                if kinds[cell] == _WALL:
                    sentences.append(_wall_sentence(language, side, distance))
                break
    for cell, kind in enumerate(kinds):
        if kind > _WALL and cell != _AGENT:
            sentences.append(_object_sentence(language, parity, cell, *symbols[3 * cell : 3 * cell + 3]))
    return sentences


def check_language(language: str) -> None:
    """Refuse a language that there are no sentences in.

    Raises:
        EnvError: names the languages.
    """
    if language not in _GRAMMARS:
        hint = did_you_mean(str(language), _GRAMMARS)
        raise EnvError(f"Expected language to be one of {list(_GRAMMARS)}, got {language!r}.{hint} Choose one of them.")


def fixed_phrases(language: str = "english", *, parity: bool = True) -> tuple[str, ...]:
    """Return what sentences joined by ", " are made of, in phrases that mean one thing each.

    A thing is a phrase of its own, the same in a mission and in every observation: a model finds what it is told by a
    token that comes again. Behind a place, the phrase goes on to where the next sentence names its thing.

    >>> phrases = fixed_phrases()
    >>> phrases[:2], phrases[4], phrases[-2:]
    ((' You carry a', ', You carry a'), ' red door', (' 3 steps right', ' 3 steps right, You see a'))
    """
    grammar, reach = _GRAMMARS[language], (_AGENT % _SIDE, _SIDE // 2, _SIDE // 2)
    articles = grammar.articles[:1] if parity else grammar.articles
    wall, wall_words = grammar.wall.split(f" {grammar.nouns[_WALL]}")
    (carry, carried_words), (see, seen_words) = (text.split("{article}") for text in (grammar.carry, grammar.thing))
    seen = list(dict.fromkeys([*(see + article for article in articles), wall]))
    starts = [*(carry + article for article in articles), *seen]
    goes_on = ("", *(f", {start}" for start in seen))
    carried = _ENGLISH if parity else grammar
    things = [
        words.format(color=color, noun=names.nouns[kind])
        for kind in (_DOOR, *sorted(_CARRIED))
        for words, names in ((seen_words, grammar), (carried_words, carried))
        for color in names.colors
    ]
    places = [
        f" {grammar.nouns[_WALL]}" + wall_words.format(place=_place(grammar, side, distance + 1))
        for side in range(len(reach))
        for distance in range(reach[side])
    ]
    places += [f" {_place_of(grammar, cell)}" for cell in range(_SIDE * _SIDE) if cell != _AGENT]
    phrases = [joint + start for start in starts for joint in (" ", ", ")] + things
    phrases += [f" {state}" for state in grammar.states]
    return tuple(dict.fromkeys(phrases + [place + end for place in places for end in goes_on]))


@cache
def _carry_sentence(language: str, parity: bool, kind: int, color: int) -> str:
    _check_symbols(kind, color, 0)
    # English words in every language, as in the paper's environment.
    words = _ENGLISH if parity else _GRAMMARS[language]
    article = _GRAMMARS[language].articles[0]
    return _GRAMMARS[language].carry.format(article=article, noun=words.nouns[kind], color=words.colors[color])


@cache
def _wall_sentence(language: str, side: int, distance: int) -> str:
    grammar = _GRAMMARS[language]
    return grammar.wall.format(place=_place(grammar, side, distance))


@lru_cache(maxsize=8192)
def _object_sentence(language: str, parity: bool, cell: int, kind: int, color: int, state: int) -> str:
    _check_symbols(kind, color, state if kind == _DOOR else 0)
    return f"{_thing(language, parity, kind, color, state)} {_place_of(_GRAMMARS[language], cell)}"


def _thing(language: str, parity: bool, kind: int, color: int, state: int) -> str:
    """Return the part of a sentence that says what is seen."""
    grammar = _GRAMMARS[language]
    noun, colors, article = grammar.nouns[kind], grammar.colors, grammar.articles[0]
    if not parity and noun in grammar.other_gender:
        colors, article = grammar.other_colors, grammar.articles[1]
    if kind != _DOOR:
        return grammar.thing.format(article=article, noun=noun, color=colors[color])
    if not parity and grammar is _ENGLISH and grammar.states[state] == "open":
        article = grammar.articles[1]
    return grammar.door.format(article=article, state=grammar.states[state], noun=noun, color=colors[color])


def _place_of(grammar: _Grammar, cell: int) -> str:
    """Return the part of a sentence that says where it is seen: beside the agent, then ahead."""
    right, ahead = cell // _SIDE - _AGENT // _SIDE, _AGENT % _SIDE - cell % _SIDE
    places = [_place(grammar, 2 if right > 0 else 1, abs(right))] if right else []
    places += [_place(grammar, 0, ahead)] if ahead else []
    return grammar.two_sides.format(*places) if len(places) == 2 else places[0]


def _place(grammar: _Grammar, side: int, distance: int) -> str:
    return (grammar.step if distance == 1 else grammar.steps).format(distance, grammar.sides[side])


def _check_symbols(kind: int, color: int, state: int) -> None:
    limits = (len(_ENGLISH.nouns), len(_ENGLISH.colors), len(_ENGLISH.states))
    if any(symbol >= limit for symbol, limit in zip((kind, color, state), limits, strict=True)):
        raise EnvError(
            f"Expected object, color and state below {limits} in each cell, found {(kind, color, state)}. "
            "Give the image as minigrid observes it, without a wrapper that changes its symbols."
        )


def _wrong_image(image: object) -> str:
    found, hint = type(image).__name__, "Give observation['image'] of a minigrid environment with agent_view_size=7."
    if isinstance(image, np.ndarray):
        found = f"{image.dtype} {image.shape}"
        if image.shape == (_SIDE, _SIDE, 3):
            hint = "Convert it with image.astype(np.uint8)."
    return f"Expected an image of dtype uint8 and shape (7, 7, 3), got {found}. {hint}"
