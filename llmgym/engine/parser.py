"""Parsers: which action a free answer names. Knows no engine."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from llmgym.errors import ConfigError, did_you_mean
from llmgym.types import Parser

__all__ = ["find_action", "load_parser"]

PUNCTUATION = ".,;:!?\"'`*()[]<>"


def find_action(answer: str, actions: Sequence[str]) -> int | None:
    """Return the index of the action that an answer is, or begins with; None if it names none.

    Case, white space and punctuation around are ignored. Of several actions that fit, the longest counts.

    >>> find_action(" Go forward.", ["go", "go forward", "turn left"])
    1
    >>> find_action("I would rather not.", ["go", "stay"]) is None
    True
    """
    said = _words(answer)
    best: int | None = None
    best_length = 0
    for index, action in enumerate(actions):
        words = _words(action)
        if len(words) > best_length and said[: len(words)] == words:
            best, best_length = index, len(words)
    return best


def _words(text: str) -> list[str]:
    """Return the words of a text in lower case, without the punctuation around each."""
    stripped = (word.strip(PUNCTUATION) for word in text.casefold().split())
    return [word for word in stripped if word]


@lru_cache(maxsize=64)
def load_parser(name: str) -> Parser:
    """Return the parser that "module:function" names; modules of the current folder can be named too.

    Raises:
        ConfigError: the name is not of that form, or there is no such module or function.

    >>> load_parser("llmgym.engine.parser:find_action")("Stay!", ["go", "stay"])
    1
    """
    module_name, _, function_name = name.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), function_name)):
        raise ConfigError(
            f"Expected acting.parser to be written as module:function, found {name!r}. "
            "For instance my_parsers:find_action, for the function find_action of my_parsers.py."
        )
    try:
        with _current_folder():
            module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"Expected acting.parser to name a module that can be imported, found {name!r}: {error}. Install it, or "
            "start llmgym in the folder that it lies in."
        ) from error
    parser = getattr(module, function_name, None)
    if not callable(parser):
        functions = [one for one, value in vars(module).items() if callable(value)]
        raise ConfigError(
            f"Expected acting.parser to name a function of {module_name}, found {function_name!r}, which is none."
            f"{did_you_mean(function_name, functions)}"
        )
    found: Parser = parser
    return found


@contextmanager
def _current_folder() -> Iterator[None]:
    """Let modules be imported from the current folder too, which an installed command does not do by itself."""
    folder = str(Path.cwd())
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
