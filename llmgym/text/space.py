"""The space of texts: any Unicode string up to a length. Knows neither environments nor prompts."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Text
from gymnasium.vector.utils.shared_memory import read_from_shared_memory, write_to_shared_memory

__all__ = ["UnicodeText"]

_SAMPLED = string.ascii_letters + string.digits + string.punctuation + " \n" + "àâçèéêëîïôùûüÀÉñöä"


class UnicodeText(Text):
    """A Gymnasium `Text` of any characters, the empty text included.

    Gymnasium's own `Text` holds only the characters of a list, and does not work in an `AsyncVectorEnv` with shared
    memory: that reads the memory once, when it is made (https://github.com/Farama-Foundation/Gymnasium/issues/1164),
    and a `Text` stays what it was then. This space works in all vector environments, with the same texts in each.

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


class _SharedTexts(Sequence[str]):
    """The texts of all environments, in shared memory, as they are now. A copy, which users get, is a tuple of str."""

    def __init__(self, memory: npt.NDArray[np.str_]) -> None:
        self._memory = memory

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        return tuple(self._memory.tolist())[index]

    def __len__(self) -> int:
        return len(self._memory)

    def __deepcopy__(self, memo: dict[int, Any]) -> tuple[str, ...]:
        return self[:]


@write_to_shared_memory.register(UnicodeText)
def _write(space: UnicodeText, index: int, values: str, shared_memory: Any) -> None:
    np.frombuffer(shared_memory.get_obj(), dtype=f"U{space.max_length}")[index] = values


@read_from_shared_memory.register(UnicodeText)
def _read(space: UnicodeText, shared_memory: Any, n: int = 1) -> _SharedTexts:
    return _SharedTexts(np.frombuffer(shared_memory.get_obj(), dtype=f"U{space.max_length}"))
