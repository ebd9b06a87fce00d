"""How the contexts of a call are divided among processes, and how their answers come together. Knows no process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from llmgym.host.forward import PassResult
from llmgym.host.inputs import Candidates
from llmgym.host.rows import Output

__all__ = ["Piece", "divide", "join", "update_indices"]


@dataclass(frozen=True, slots=True)
class Piece:
    """A context with some of its candidates, which one process answers for.

    Attributes:
        context: index of the context.
        candidates: indices of its candidates; None where the call has none.
    """

    context: int
    candidates: range | None


def divide(num_contexts: int, candidates: Candidates | None, num_workers: int) -> list[list[Piece]]:
    """Divide the contexts of a call, and where they are fewer than processes, the candidates of each.

    Returns:
        for each process its pieces, maybe none; in order, they are the contexts in order.

    >>> [[(piece.context, piece.candidates) for piece in part] for part in divide(1, [["a", "b", "c"]], 2)]
    [[(0, range(0, 2))], [(0, range(2, 3))]]
    """
    whole = [
        Piece(index, None if candidates is None else range(len(candidates[index]))) for index in range(num_contexts)
    ]
    if candidates is not None and 0 < num_contexts < num_workers:
        shares = [len(part) for part in _cut(range(num_workers), num_contexts)]
        whole = [
            Piece(piece.context, part)
            for piece, share in zip(whole, shares, strict=True)
            for part in _cut(range(len(candidates[piece.context])), max(1, min(share, len(candidates[piece.context]))))
        ]
    return [[whole[place] for place in part] for part in _cut(range(len(whole)), num_workers)]


def join(num_contexts: int, pieces: Sequence[Piece], results: Sequence[PassResult]) -> list[PassResult]:
    """Put the answers to pieces back together, one a context.

    Args:
        num_contexts: of the whole call.
        pieces: in order.
        results: one a piece.
    """
    parts: list[list[PassResult]] = [[] for _ in range(num_contexts)]
    for piece, result in zip(pieces, results, strict=True):
        parts[piece.context].append(result)
    return [{key: _concatenated([part[key] for part in found]) for key in found[0]} for found in parts]


def update_indices(num_contexts: int, num_workers: int) -> list[tuple[int, ...]]:
    """Divide the contexts of an update: as many for each process, because all must take as many backward passes.

    Where they do not divide, the first contexts are given out again, as torch's DistributedSampler does. Where there
    are fewer than processes, each gets all of them: the mean of equal gradients is the gradient.

    >>> update_indices(5, 2), update_indices(1, 2)
    ([(0, 1, 2), (3, 4, 0)], [(0,), (0,)])
    """
    if num_contexts < num_workers:
        return [tuple(range(num_contexts))] * num_workers
    size = -(-num_contexts // num_workers)
    return [
        tuple(place % num_contexts for place in range(worker * size, (worker + 1) * size))
        for worker in range(num_workers)
    ]


def _cut(items: range, num_parts: int) -> list[range]:
    """Cut a range into parts whose lengths differ by one at most, longer ones first."""
    base, longer = divmod(len(items), num_parts)
    parts, start = [], items.start
    for number in range(num_parts):
        stop = start + base + (number < longer)
        parts.append(range(start, stop))
        start = stop
    return parts


def _concatenated(parts: Sequence[Output]) -> Output:
    """Join the answers to the candidates of one context."""
    first: Any = parts[0]
    if len(parts) == 1:
        return parts[0]
    if isinstance(first, Mapping):
        return {name: torch.cat([part[name] for part in parts]) for name in first}
    return torch.cat(list(parts))  # type: ignore[arg-type]
