"""Attention of branches through FlexAttention: their mask is a rule, and no table of rows x branch tokens x tokens.

For GPUs. On a CPU it has no backward pass, and there the table costs little.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from llmgym.learner.branch import Branch, IntArray
from llmgym.learner.row import Row, build_rows

__all__ = ["build_block_mask", "flex_attend", "flex_attention_works", "gap_to_sdpa"]

TOLERANCE = 2e-2
"""Largest difference from SDPA, in output and gradients, on a few numbers of deviation 1: products may be in TF32."""
_logger = logging.getLogger(__name__)


def build_block_mask(rows: Sequence[Row], limits: IntArray, num_trunk: int, device: torch.device | str) -> BlockMask:
    """Return the rule by which branch tokens see: the trunk as far as their context goes, ancestors, themselves.

    Args:
        rows: R of them.
        limits: int64 (R, B); how many of the trunk's tokens each branch token sees; 1 in the padding.
        num_trunk: T - B, the tokens before the branches.
        device: where to put it.

    Returns:
        a mask of shape (R, 1, B, T).
    """
    num_rows, num_fed = limits.shape
    firsts, behinds = (np.full(limits.shape, -1, np.int64) for _ in range(2))
    for number, row in enumerate(rows):
        start = 0
        for branch in row.branches:
            stop = start + branch.num_fed
            first, behind = _numbered(branch)
            firsts[number, start:stop], behinds[number, start:stop] = first + start, behind + start
            start = stop
    limit, first_of, behind_of = (torch.from_numpy(array).to(device) for array in (limits, firsts, behinds))

    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        place = (key - num_trunk).clamp(min=0)
        own = first_of[row, query]
        is_ancestor = (first_of[row, place] <= own) & (own < behind_of[row, place])
        return torch.where(key < num_trunk, key < limit[row, query], is_ancestor)

    mask: BlockMask = create_block_mask(sees, num_rows, None, num_fed, num_trunk + num_fed, device=str(device))
    # Models such as transformers' GPT-2 ask any mask for it.
    mask.ndim = 4  # type: ignore[attr-defined]
    return mask


def flex_attend(query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, scale: float | None) -> Tensor:
    """Return what branch tokens take from what they see: (R, num_heads, B, head size)."""
    attend: Any = _compiled() if query.device.type == "cuda" else flex_attention
    result: Tensor = attend(query, key, value, block_mask=mask, scale=scale)
    return result


@lru_cache(maxsize=8)
def flex_attention_works(device: torch.device) -> bool:
    """Tell whether FlexAttention works on a device, backward too: tried once, and said in a warning where it does not.

    A compiler is at work behind it, which can fail in many ways; SDPA with a table is then slower, and right.
    """
    if device.type != "cuda":
        return False
    try:
        gap = gap_to_sdpa(device)
    except Exception as error:
        _logger.warning("FlexAttention does not work on %s, SDPA takes its place: %s", device, error)
        return False
    if gap > TOLERANCE:
        _logger.warning("FlexAttention differs from SDPA by %.3g on %s, and is not used.", gap, device)
    return gap <= TOLERANCE


def gap_to_sdpa(device: torch.device) -> float:
    """Return the largest difference between FlexAttention and SDPA on a few numbers; on GPUs that of gradients, too."""
    (row,) = build_rows([np.arange(40, dtype=np.int32)], [((5, 6, 7), (5, 8), (9, 6))], feeds_ends=True)
    branch = row.branches[0]
    mask = build_block_mask([row], np.full((1, branch.num_fed), 40, np.int64), 40, device)
    sees = torch.ones(1, 1, branch.num_fed, 40 + branch.num_fed, dtype=torch.bool)
    sees[0, 0, :, 40:] = torch.from_numpy(branch.sees_mask)
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, 2, length, 32) for length in (branch.num_fed, 40 + branch.num_fed, 40 + branch.num_fed)]
    drawn = [torch.randn(shape, generator=generator) for shape in shapes]

    def run(attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> list[Tensor]:
        given = [tensor.to(device).requires_grad_(device.type == "cuda") for tensor in drawn]
        result = attend(given[0], given[1], given[2])
        gradients = torch.autograd.grad(result.square().sum(), given) if result.requires_grad else ()
        return [result.detach(), *gradients]

    through_flex = run(lambda query, key, value: flex_attend(query, key, value, mask, None))
    plain = run(lambda query, key, value: scaled_dot_product_attention(query, key, value, attn_mask=sees.to(device)))
    return max(float((first - second).abs().max()) for first, second in zip(through_flex, plain, strict=True))


@lru_cache(maxsize=1)
def _compiled() -> Callable[..., Any]:
    """Return FlexAttention as one kernel for all shapes."""
    compiled: Callable[..., Any] = torch.compile(flex_attention, dynamic=True)
    return compiled


@lru_cache(maxsize=4096)
def _numbered(branch: Branch) -> tuple[IntArray, IntArray]:
    """Number a branch's tokens so that those below a token follow it: its own number, and the first one behind them.

    A token is an ancestor of another, or the same, just where the other's number is in its range.

    >>> from llmgym.learner.branch import build_branch
    >>> first, behind = _numbered(build_branch(((5, 6, 7), (5, 8, 7), (9, 6))))
    >>> first.tolist(), behind.tolist()
    ([0, 1, 2, 3], [3, 2, 3, 4])
    """
    sizes = branch.sees_mask.sum(axis=0)
    first, free = np.zeros(branch.num_fed, np.int64), np.zeros(branch.num_fed + 1, np.int64)
    for token in range(branch.num_fed):
        ancestors = np.flatnonzero(branch.sees_mask[token])
        above = [other for other in ancestors.tolist() if other != token]
        # Parents stand before their children: the last of the ancestors is the parent. The root's place is the last.
        parent = above[-1] if above else -1
        first[token] = free[parent]
        free[parent] += sizes[token]
        free[token] = first[token] + 1
    return first, first + sizes
