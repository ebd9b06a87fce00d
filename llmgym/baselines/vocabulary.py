"""The words of an environment, numbered as they are met. Knows no network."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["PADDING", "UNKNOWN", "Vocabulary", "pad"]

Ints = npt.NDArray[np.int64]

PADDING, UNKNOWN = 0, 1
"""Ids of no word at all, and of a word that there is no number for."""

_PUNCTUATION = ".,;:!?()[]\"'"
_SENTENCE_END = re.compile(r"[.,;:!?]+\s+|\n")


class Vocabulary:
    """Numbers words, case and punctuation left out.

    What an environment says is made of a few hundred words: they need no tokenizer that splits them further.

    >>> words = Vocabulary(max_words=8)
    >>> words.encode("Go to the red ball."), words.encode("the ball")
    ((2, 3, 4, 5, 6), (4, 6))
    """

    def __init__(self, max_words: int, known: Iterable[str] = (), *, is_open: bool = True) -> None:
        """Begin with the words that are known.

        Args:
            max_words: how many ids there are, the two that are no words among them; later words are `UNKNOWN`.
            known: words, in the order of their ids.
            is_open: whether new words get a number, which a network that still learns can learn to read.
        """
        self.max_words = max_words
        self.is_open = is_open
        self._ids = {word: UNKNOWN + 1 + position for position, word in enumerate(known)}

    @property
    def words(self) -> tuple[str, ...]:
        """The words that have a number, in the order of their ids."""
        return tuple(self._ids)

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the ids of a text's words, at least one id."""
        ids = tuple(self._number(word) for piece in text.lower().split() if (word := piece.strip(_PUNCTUATION)))
        return ids or (UNKNOWN,)

    def encode_sentences(self, text: str) -> tuple[tuple[int, ...], ...]:
        """Return the ids of the words of each sentence or clause of a text, at least one sentence."""
        sentences = tuple(self.encode(part) for part in _SENTENCE_END.split(text) if part.strip())
        return sentences or ((UNKNOWN,),)

    def _number(self, word: str) -> int:
        number = self._ids.get(word)
        if number is None:
            if not self.is_open or UNKNOWN + 1 + len(self._ids) >= self.max_words:
                return UNKNOWN
            number = self._ids[word] = UNKNOWN + 1 + len(self._ids)
        return number


def pad(sentences: Sequence[tuple[int, ...]]) -> tuple[Ints, Ints]:
    """Lay encoded texts side by side.

    Returns:
        int64 (B, T), the ids with `PADDING` behind them; int64 (B,), how many there are of each.
    """
    lengths = np.array([len(sentence) for sentence in sentences], dtype=np.int64)
    padded = np.full((len(sentences), int(lengths.max())), PADDING, dtype=np.int64)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = np.concatenate(sentences)
    return padded, lengths
