"""A rank: one of the processes that learn together, as it sees the others. Knows no model and no loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch.distributed

from llmgym.learner.row import Row

__all__ = ["ALONE", "Rank", "share_rows"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rank:
    """Which of the processes this one is. What it does with the others, all of them do at once.

    Attributes:
        index: from 0 to count - 1; rank 0 publishes and saves.
        count: how many learn together; 1 is alone, and waits for no one.
    """

    index: int = 0
    count: int = 1

    def share(self, rows: Sequence[Row]) -> list[Row]:
        """Return the rows that this rank computes; no row is computed by two."""
        return share_rows(rows, self.count)[self.index]

    def gather(self, mine: T) -> list[T]:
        """Return what every rank gives, in the order of the ranks."""
        if self.count == 1:
            return [mine]
        everyone: list[T] = [mine] * self.count
        torch.distributed.all_gather_object(everyone, mine)
        return everyone

    def total(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Return numbers by name, added up over the ranks; in the same order everywhere, so that all get the same."""
        totals: dict[str, float] = {}
        for part in self.gather(dict(sums)):
            for name, value in part.items():
                totals[name] = totals.get(name, 0.0) + value
        return totals


ALONE = Rank()
"""A process that learns without others."""


def share_rows(rows: Sequence[Row], num_shares: int) -> list[list[Row]]:
    """Share rows out so that all shares have about as many tokens: the longest first, each to whoever has least.

    A row is never cut, so a share may be empty. The same rows are shared out alike everywhere.
    """
    shares: list[list[Row]] = [[] for _ in range(num_shares)]
    num_tokens = [0] * num_shares
    for row in sorted(rows, key=lambda row: (-row.num_tokens, row.first_state)):
        least = num_tokens.index(min(num_tokens))
        shares[least].append(row)
        num_tokens[least] += row.num_tokens
    return shares
