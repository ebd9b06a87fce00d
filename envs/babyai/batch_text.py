"""The sentences of many views at once; only those of views that have changed are made anew. Knows no environments."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llmgym.envs.babyai.batch_view import AGENT_CELL, CARRIED, EMPTY, SIDE, WALL
from llmgym.envs.babyai.grammar import describe

__all__ = ["BatchText"]

Looks = npt.NDArray[np.uint16]

_NUM_LOOKS = 1024
_NUM_CELLS = SIDE * SIDE
_RAYS = (
    np.arange(AGENT_CELL - 1, AGENT_CELL - SIDE, -1),
    np.arange(AGENT_CELL - SIDE, -1, -SIDE),
    np.arange(AGENT_CELL + SIDE, _NUM_CELLS, SIDE),
)
"""Cells straight ahead, to the left and to the right of the agent, near to far."""


class BatchText:
    """Say what views show, in the words and the order of `describe`."""

    def __init__(self, language: str, *, parity: bool) -> None:
        """Speak a language, with the quirks of the paper's environment or without."""
        self._sentences = _Sentences(language, parity)

    def describe(self, views: Looks) -> list[tuple[str, ...]]:
        """Return the sentences of each view.

        Args:
            views: uint16 (B, 49); what is seen in each cell, see `see`.
        """
        kinds = views & 15
        told = np.zeros((len(views), 1 + len(_RAYS) + _NUM_CELLS), dtype=np.int64)
        carries = np.isin(kinds[:, AGENT_CELL], CARRIED)
        told[:, 0] = np.where(carries, AGENT_CELL * _NUM_LOOKS + views[:, AGENT_CELL], 0)
        everyone = np.arange(len(views))
        for side, ray in enumerate(_RAYS):
            along = kinds[:, ray]
            nearest = ray[np.argmax(along > EMPTY, axis=1)]
            is_wall = kinds[everyone, nearest] == WALL
            told[:, 1 + side] = np.where(is_wall, nearest * _NUM_LOOKS + views[everyone, nearest], 0)
        things = told[:, 1 + len(_RAYS) :]
        np.copyto(things, np.arange(_NUM_CELLS) * _NUM_LOOKS + views, where=kinds > WALL)
        things[:, AGENT_CELL] = 0
        rows, columns = np.nonzero(told)
        sentences = [self._sentences[key] for key in told[rows, columns].tolist()]
        ends = np.cumsum(np.bincount(rows, minlength=len(views))).tolist()
        return [tuple(sentences[start:end]) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


class _Sentences(dict[int, str]):
    """The sentence of a thing in a cell, by ``1024 * cell + look``; made when it is first asked for."""

    def __init__(self, language: str, parity: bool) -> None:
        self._language = language
        self._parity = parity

    def __missing__(self, key: int) -> str:
        cell, look = divmod(key, _NUM_LOOKS)
        image = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
        image[cell // SIDE, cell % SIDE] = look & 15, look >> 4 & 15, look >> 8
        self[key] = describe(image, self._language, parity=self._parity)[0]
        return self[key]
