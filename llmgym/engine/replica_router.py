"""Which replica a context goes to: where its episode has been, as that one holds the episode in its cache.

Knows no replica but by number. What it remembers costs time only: sent elsewhere, a context is computed anew.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate, islice

from llmgym.types import TokenIds

__all__ = ["PrefixRouter", "prefix_keys"]


def prefix_keys(context_ids: TokenIds) -> list[int]:
    """Return a key for every prefix of a context, shortest first; contexts that begin alike share those.

    >>> prefix_keys((5, 6, 7))[:2] == prefix_keys((5, 6, 8))[:2]
    True
    """
    return list(islice(accumulate(context_ids, lambda key, token: hash((key, token)), initial=0), 1, None))


class PrefixRouter:
    """Remembers where each episode was last, by the keys of its newest context.

    The next context of an episode takes the place of the one it grew from. So memory does not grow with an episode,
    and where many episodes begin with one and the same context, only one of them inherits its replica.
    """

    def __init__(self, max_contexts: int = 65536) -> None:
        """Remember as many contexts; beyond, those are forgotten that were not seen for longest."""
        self._max_contexts = max_contexts
        self._places: OrderedDict[int, int] = OrderedDict()

    def follow(self, keys: Sequence[int]) -> int | None:
        """Return where the longest known prefix of a context went, and remember the context in its stead."""
        known = next((key for key in reversed(keys) if key in self._places), None)
        if known is None:
            return None
        place = self._places.pop(known)
        self.settle(keys, place)
        return place

    def knows(self, keys: Sequence[int]) -> bool:
        """Return whether this very context was seen, and none that grew from it."""
        return keys[-1] in self._places

    def settle(self, keys: Sequence[int], place: int) -> None:
        """Remember where a context went."""
        self._places[keys[-1]] = place
        self._places.move_to_end(keys[-1])
        if len(self._places) > self._max_contexts:
            self._places.popitem(last=False)

    def forget(self, place: int) -> None:
        """Forget all that went to a replica, which has lost its cache."""
        for key in [key for key, known in self._places.items() if known == place]:
            del self._places[key]
