"""A pack: rows padded to one length, with every index the learner needs to read its answers. Knows nothing of models.

Scoring a candidate as a row of its own computes the prompt once a candidate; packing computes it once an episode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llmgym.learner.branch import IntArray
from llmgym.learner.row import Row

__all__ = ["Pack", "build_pack"]


@dataclass(frozen=True, slots=True, eq=False)
class Pack:
    """One micro-batch. R rows, T tokens, N states, P points, E edges, C candidates (see `Branch` for the words).

    Attributes:
        state_indices: int64 (N,), numpy; positions of the states in the list that was packed.
        input_ids: int64 (R, T); 0 behind the end of a row, where no one looks.
        position_ids: int64 (R, T).
        attention_mask: float (R, 1, T, T); 0 where a token (third axis) sees another (fourth), else the least float.
        end_indices: int64 (N,); where each state's prompt ends, in the flattened R*T tokens.
        point_indices: int64 (P,); where each point is, in the flattened R*T tokens; state after state.
        edge_points: int64 (E,); the point each edge is predicted at.
        edge_ids: int64 (E,); token of each edge.
        siblings: int64 (P, most siblings); edges that leave each point, E where there are fewer.
        sibling_order: int64 (E,); where each edge stands in the flattened siblings.
        paths: int64 (C, most tokens); the edges of each candidate, E where it is shorter.
        path_lengths: int64 (C,); number of tokens of each candidate.
        candidates: int64 (N, most candidates); the candidates of each state, C where there are fewer.
    """

    state_indices: IntArray
    input_ids: Tensor
    position_ids: Tensor
    attention_mask: Tensor
    end_indices: Tensor
    point_indices: Tensor
    edge_points: Tensor
    edge_ids: Tensor
    siblings: Tensor
    sibling_order: Tensor
    paths: Tensor
    path_lengths: Tensor
    candidates: Tensor


def build_pack(rows: Sequence[Row], *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Pack:
    """Pad rows to one length and number their points, edges and candidates through.

    Args:
        rows: at least one.
        dtype: of the attention mask; the model's.
        device: where to put the tensors.
    """
    width = max(row.num_tokens for row in rows)
    input_ids = np.zeros((len(rows), width), np.int64)
    position_ids = np.zeros((len(rows), width), np.int64)
    for number, row in enumerate(rows):
        input_ids[number, : row.num_tokens] = row.input_ids
        position_ids[number, : row.num_tokens] = row.position_ids
    branches = [branch for row in rows for branch in row.branches]
    ends = np.concatenate([row.end_indices + number * width for number, row in enumerate(rows)])
    num_points = np.array([1 + branch.num_fed for branch in branches])
    num_edges = np.array([branch.num_edges for branch in branches])
    point_offsets, edge_offsets = np.cumsum(num_points) - num_points, np.cumsum(num_edges) - num_edges
    points = np.empty(int(num_points.sum()), np.int64)
    points[point_offsets] = ends
    is_fed = np.ones(len(points), np.bool_)
    is_fed[point_offsets] = False
    points[is_fed] = np.flatnonzero(np.concatenate([_fed_mask(row, width) for row in rows]))
    total = int(num_edges.sum())
    sibling_counts = np.concatenate([branch.num_siblings for branch in branches])
    siblings = _ragged(_shifted([b.sibling_edges for b in branches], edge_offsets), sibling_counts, total)
    sibling_order = np.empty(total + 1, np.int64)
    sibling_order[siblings.ravel()] = np.arange(siblings.size)
    path_lengths = np.concatenate([branch.path_lengths for branch in branches])
    paths = _ragged(_shifted([b.path_edges for b in branches], edge_offsets), path_lengths, total)
    num_candidates = np.array([branch.num_candidates for branch in branches])
    candidates = _ragged(np.arange(len(path_lengths)), num_candidates, len(path_lengths))

    def to_tensor(array: IntArray) -> Tensor:
        return torch.from_numpy(array).to(device)

    return Pack(
        state_indices=np.concatenate([row.state_indices for row in rows]),
        input_ids=to_tensor(input_ids),
        position_ids=to_tensor(position_ids),
        attention_mask=_additive_mask(rows, width, dtype, device),
        end_indices=to_tensor(ends),
        point_indices=to_tensor(points),
        edge_points=to_tensor(_shifted([b.edge_points for b in branches], point_offsets)),
        edge_ids=to_tensor(np.concatenate([b.edge_ids for b in branches])),
        siblings=to_tensor(siblings),
        sibling_order=to_tensor(sibling_order[:total]),
        paths=to_tensor(paths),
        path_lengths=to_tensor(path_lengths),
        candidates=to_tensor(candidates),
    )


def _fed_mask(row: Row, width: int) -> npt.NDArray[np.bool_]:
    """Return bool (width,): True on a row's branch tokens."""
    mask = np.zeros(width, np.bool_)
    mask[: row.num_tokens] = ~row.trunk_mask
    return mask


def _shifted(arrays: Sequence[IntArray], offsets: IntArray) -> IntArray:
    """Concatenate arrays of numbers, adding its offset to each."""
    return np.concatenate(arrays) + np.repeat(offsets, [len(array) for array in arrays])


def _ragged(flat: IntArray, lengths: IntArray, padding: int) -> IntArray:
    """Lay consecutive stretches of an array out as rows, padded behind.

    >>> _ragged(np.array([4, 5, 6]), np.array([1, 2]), 9).tolist()
    [[4, 9], [5, 6]]
    """
    width = int(lengths.max(initial=0))
    table = np.full((len(lengths), width), padding, np.int64)
    table[np.arange(width) < lengths[:, None]] = flat
    return table


def _additive_mask(rows: Sequence[Row], width: int, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """Return (R, 1, T, T): 0 where a token sees another, else the least float of dtype.

    The trunk is causal and blind to branches; a branch's token sees the trunk before it, its ancestors and itself.
    What stands behind a row's end sees the row too: a token that sees nothing would turn into NaN.
    """
    hidden = np.ones((len(rows), width), np.bool_)
    places: list[IntArray] = []
    for number, row in enumerate(rows):
        hidden[number, : row.num_tokens] = ~row.trunk_mask
        places.extend(
            (number * width + start + query) * width + start + key for start, query, key in _branch_places(row)
        )
    hides = torch.from_numpy(hidden)[:, None, :] | torch.ones(width, width, dtype=torch.bool).triu_(1)
    if places:
        hides.view(-1)[torch.from_numpy(np.concatenate(places))] = False
    mask = torch.zeros(hides.shape, dtype=dtype)
    return mask.masked_fill_(hides, torch.finfo(dtype).min).unsqueeze_(1).to(device)


def _branch_places(row: Row) -> list[tuple[int, IntArray, IntArray]]:
    """Return, for each branch that is fed, its first index in the row and the pairs (query, key) that see."""
    starts = np.flatnonzero(~row.trunk_mask)
    places = []
    fed = 0
    for branch in row.branches:
        if branch.num_fed:
            query, key = np.nonzero(branch.sees_mask)
            places.append((int(starts[fed]), query, key))
            fed += branch.num_fed
    return places
