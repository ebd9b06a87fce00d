"""A pack: rows padded to one shape, with every index the learner needs to read its answers. Knows nothing of models.

Scoring a candidate as a row of its own computes the prompt once a candidate; packing computes it once an episode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from llmgym.learner.branch import IntArray
from llmgym.learner.flex import build_block_mask, flex_attention_works
from llmgym.learner.row import Row

__all__ = ["Pack", "build_pack"]


@dataclass(frozen=True, slots=True, eq=False)
class Pack:
    """One micro-batch. R rows, N states, P points, E edges, C candidates (see `Branch` for the words), F free tokens.

    A row is its trunk, padded, and then its branches, padded: T tokens, the last B of them for branches.

    Attributes:
        state_indices: int64 (N,), numpy; positions of the states in the list that was packed.
        input_ids: int64 (R, T); 0 in the padding, where no one looks.
        position_ids: int64 (R, T); how many tokens each has before it, as the model should see it.
        branch_mask: float (R, 1, B, T); 0 where a branch's token (third axis) sees a token, else the least float; or
            the same as a rule; None where B is 0. The trunk is causal and blind to branches without a mask.
        end_indices: int64 (N,); where each state's prompt ends, in the flattened R*T tokens.
        context_indices: int64 (N,); where what is read before its candidates ends: where its action is drawn.
        point_indices: int64 (P,); where each point is, in the flattened R*T tokens; state after state.
        edge_points: int64 (E,); the point each edge is predicted at.
        edge_ids: int64 (E,); token of each edge.
        siblings: int64 (P, most siblings); edges that leave each point, E where there are fewer.
        sibling_order: int64 (E,); where each edge stands in the flattened siblings.
        paths: int64 (C, most tokens); the edges of each candidate, E where it is shorter.
        path_lengths: int64 (C,); number of tokens of each candidate.
        candidates: int64 (N, most candidates); the candidates of each state, C where there are fewer.
        candidate_indices: int64 (C,); where each candidate's last token is, in the flattened R*T tokens; (0,) where
            the rows do not feed it.
        free_indices: int64 (F,); where each free token is predicted, in the flattened R*T tokens; state after state.
        free_ids: int64 (F,); the free tokens.
        free: int64 (N, most free tokens); the free tokens of each state, F where there are fewer.
    """

    state_indices: IntArray
    input_ids: Tensor
    position_ids: Tensor
    branch_mask: Tensor | BlockMask | None
    end_indices: Tensor
    context_indices: Tensor
    point_indices: Tensor
    edge_points: Tensor
    edge_ids: Tensor
    siblings: Tensor
    sibling_order: Tensor
    paths: Tensor
    path_lengths: Tensor
    candidates: Tensor
    candidate_indices: Tensor
    free_indices: Tensor
    free_ids: Tensor
    free: Tensor


def build_pack(
    rows: Sequence[Row],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    uses_flex: bool | None = None,
) -> Pack:
    """Pad rows to one length and number their points, edges and candidates through.

    Args:
        rows: at least one.
        dtype: of the attention mask; the model's.
        device: where to put the tensors.
        uses_flex: whether the branches' mask is a rule for FlexAttention, and no table for SDPA; on GPUs if None, where
            that works.
    """
    num_trunk, num_fed = max(row.num_trunk for row in rows), max(row.num_fed for row in rows)
    width = num_trunk + num_fed
    branches = [branch for row in rows for branch in row.branches]
    fed_mask = np.arange(num_fed) < np.array([row.num_fed for row in rows])[:, None]
    fed_limits = _fed_limits(rows)
    # Padding sees the first token of the trunk: a token that sees nothing would turn into NaN.
    limits = np.ones(fed_mask.shape, np.int64)
    limits[fed_mask] = fed_limits
    input_ids = np.zeros((len(rows), width), np.int64)
    for number, row in enumerate(rows):
        input_ids[number, : row.num_trunk] = row.trunk_ids
    input_ids[:, num_trunk:][fed_mask] = np.concatenate([branch.fed_ids for branch in branches])
    position_ids = np.tile(np.arange(width), (len(rows), 1))
    position_ids[:, num_trunk:] = 0
    position_ids[:, num_trunk:][fed_mask] = fed_limits + np.concatenate([branch.depths for branch in branches]) - 1
    starts = np.repeat(np.arange(len(rows)) * width, [row.num_states for row in rows])
    ends = starts + np.concatenate([row.prompt_lengths for row in rows]) - 1
    num_points = np.array([branch.num_points for branch in branches])
    branch_fed = np.array([branch.num_fed for branch in branches])
    num_edges = np.array([branch.num_edges for branch in branches])
    point_offsets, edge_offsets = np.cumsum(num_points) - num_points, np.cumsum(num_edges) - num_edges
    contexts = starts + np.concatenate([row.context_lengths for row in rows]) - 1
    row_numbers, columns = np.nonzero(fed_mask)
    fed_indices = row_numbers * width + num_trunk + columns
    fed_offsets = np.cumsum(branch_fed) - branch_fed
    is_point = np.arange(len(fed_indices)) < np.repeat(fed_offsets + num_points - 1, branch_fed)
    points = _merged(contexts, point_offsets, fed_indices[is_point])
    total = int(num_edges.sum())
    sibling_counts = np.concatenate([branch.num_siblings for branch in branches])
    siblings = _ragged(_shifted([b.sibling_edges for b in branches], edge_offsets), sibling_counts, total)
    sibling_order = np.empty(total + 1, np.int64)
    sibling_order[siblings.ravel()] = np.arange(siblings.size)
    path_lengths = np.concatenate([branch.path_lengths for branch in branches])
    paths = _ragged(_shifted([b.path_edges for b in branches], edge_offsets), path_lengths, total)
    num_candidates = np.array([branch.num_candidates for branch in branches])
    candidates = _ragged(np.arange(len(path_lengths)), num_candidates, len(path_lengths))
    num_free = np.concatenate([row.num_free for row in rows])
    free = _ragged(np.arange(num_free.sum()), num_free, int(num_free.sum()))

    def to_tensor(array: IntArray) -> Tensor:
        return torch.from_numpy(array).to(device)

    return Pack(
        state_indices=np.concatenate([row.state_indices for row in rows]),
        input_ids=to_tensor(input_ids),
        position_ids=to_tensor(position_ids),
        branch_mask=_branch_mask(rows, limits, num_trunk, dtype, device, uses_flex) if num_fed else None,
        end_indices=to_tensor(ends),
        context_indices=to_tensor(contexts),
        point_indices=to_tensor(points),
        edge_points=to_tensor(_shifted([b.edge_points for b in branches], point_offsets)),
        edge_ids=to_tensor(np.concatenate([b.edge_ids for b in branches])),
        siblings=to_tensor(siblings),
        sibling_order=to_tensor(sibling_order[:total]),
        paths=to_tensor(paths),
        path_lengths=to_tensor(path_lengths),
        candidates=to_tensor(candidates),
        candidate_indices=to_tensor(fed_indices[_shifted([b.end_places for b in branches], fed_offsets)]),
        free_indices=to_tensor(np.repeat(ends, num_free) + np.nonzero(free < num_free.sum())[1]),
        free_ids=to_tensor(np.concatenate([row.free_ids for row in rows])),
        free=to_tensor(free),
    )


def _fed_limits(rows: Sequence[Row]) -> IntArray:
    """Return, for every branch token of every row in order, how many of the trunk's tokens it sees."""
    lengths = np.concatenate([row.context_lengths for row in rows])
    return np.repeat(lengths, [branch.num_fed for row in rows for branch in row.branches])


def _merged(firsts: IntArray, offsets: IntArray, others: IntArray) -> IntArray:
    """Return firsts, each at its offset, with others filling the places between them.

    >>> _merged(np.array([7, 8]), np.array([0, 2]), np.array([1, 2])).tolist()
    [7, 1, 8, 2]
    """
    merged = np.empty(len(firsts) + len(others), np.int64)
    merged[offsets] = firsts
    is_other = np.ones(len(merged), np.bool_)
    is_other[offsets] = False
    merged[is_other] = others
    return merged


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


def _branch_mask(
    rows: Sequence[Row],
    limits: IntArray,
    num_trunk: int,
    dtype: torch.dtype,
    device: torch.device | str,
    uses_flex: bool | None,
) -> Tensor | BlockMask:
    """Return what branch tokens see: the trunk as far as limits, int64 (R, B), say, their ancestors and themselves."""
    if flex_attention_works(torch.device(device)) if uses_flex is None else uses_flex:
        return build_block_mask(rows, limits, num_trunk, device)
    num_rows, num_fed = limits.shape
    hides = np.ones((num_rows, num_fed, num_trunk + num_fed), np.bool_)
    hides[:, :, :num_trunk] = np.arange(num_trunk) >= limits[:, :, None]
    for number, row in enumerate(rows):
        start = 0
        for branch in row.branches:
            if branch.num_fed:
                stop = start + branch.num_fed
                hides[number, start:stop, num_trunk + start : num_trunk + stop] = ~branch.sees_mask
                start = stop
    mask = torch.zeros(hides.shape, dtype=dtype)
    return mask.masked_fill_(torch.from_numpy(hides), torch.finfo(dtype).min).unsqueeze_(1).to(device)
