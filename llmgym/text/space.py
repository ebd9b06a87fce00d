"""The space of texts: any Unicode string up to a length. Knows neither environments nor prompts."""

from __future__ import annotations

import string
from typing import Any

import numpy as np
from gymnasium.spaces import Text
from gymnasium.vector.utils.shared_memory import read_from_shared_memory, write_to_shared_memory

__all__ = ["UnicodeText"]

_SAMPLED = string.ascii_letters + string.digits + string.punctuation + " \n" + "àâçèéêëîïôùûüÀÉñöä"


class UnicodeText(Text):
    """A Gymnasium `Text` of any characters, the empty text included.

    Gymnasium's own `Text` holds only the characters of a list, and reads and writes them one by one in Python where
    vector environments share memory, max_length of them each step; this one copies a text as a whole.

    `sample` draws from printable ASCII and accented letters; `gymnasium.spaces.flatten` knows only these.

    >>> "une clef à 2 pas" in UnicodeText(16), "une clef à 12 pas" in UnicodeText(16)
    (True, False)
    """

    def __init__(self, max_length: int, *, seed: int | np.random.Generator | None = None) -> None:
        """Make the space of texts of 0 to max_length characters."""
        super().__init__(max_length, min_length=0, charset=_SAMPLED, seed=seed)

    def contains(self, x: Any) -> bool:
        """Tell whether x is a text of the space. A NUL is in none: it ends a text in shared memory."""
        return isinstance(x, str) and len(x) <= self.max_length and "\0" not in x

    def __repr__(self) -> str:
        """Name the space without its list of characters."""
        return f"UnicodeText({self.max_length})"


@write_to_shared_memory.register(UnicodeText)
def _write(space: UnicodeText, index: int, values: str, shared_memory: Any) -> None:
    np.frombuffer(shared_memory.get_obj(), dtype=f"U{space.max_length}")[index] = values


@read_from_shared_memory.register(UnicodeText)
def _read(space: UnicodeText, shared_memory: Any, n: int = 1) -> tuple[str, ...]:
    return tuple(np.frombuffer(shared_memory.get_obj(), dtype=f"U{space.max_length}").tolist())
