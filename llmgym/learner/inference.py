"""Inference: what the policy says now, without gradients, in micro-batches. Numpy out; knows no losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from llmgym.learner.distribution import action_logprobs
from llmgym.learner.evaluation import evaluate_heads, evaluate_scores
from llmgym.learner.packing import Pack, build_pack
from llmgym.learner.policy import Policy
from llmgym.learner.row import Row, group_rows
from llmgym.types import Acting, FloatArray

__all__ = ["infer_actions", "infer_head", "infer_scores"]


def infer_head(policy: Policy, rows: Sequence[Row], name: str, max_tokens: int) -> FloatArray:
    """Return what a head says of every state: float32 (num_states,)."""
    tables = _tables(policy, rows, max_tokens, lambda pack: evaluate_heads(policy, pack)[name][:, None])
    return np.array([table[0] for table in tables], np.float32)


def infer_actions(policy: Policy, rows: Sequence[Row], acting: Acting, max_tokens: int) -> list[FloatArray]:
    """Return the log-probability of every action, as it is drawn: float32 (num_candidates,) a state."""

    def evaluate_actions(pack: Pack) -> torch.Tensor:
        points = policy.hidden_states(pack).index_select(0, pack.point_indices)
        return action_logprobs(policy.logits(points), pack, acting)

    return _cut(_tables(policy, rows, max_tokens, evaluate_actions), rows)


def infer_scores(policy: Policy, rows: Sequence[Row], max_tokens: int) -> list[FloatArray]:
    """Return log P(candidate | prompt), summed over tokens: float32 (num_candidates,) a state."""
    return _cut(_tables(policy, rows, max_tokens, lambda pack: evaluate_scores(policy, pack)), rows)


@torch.no_grad()
def _tables(
    policy: Policy, rows: Sequence[Row], max_tokens: int, evaluate: Callable[[Pack], torch.Tensor]
) -> list[FloatArray]:
    """Evaluate micro-batch by micro-batch, and return a line of each table for every state."""
    lines: list[FloatArray] = [np.zeros(0, np.float32)] * sum(row.num_states for row in rows)
    for group in group_rows(rows, max_tokens):
        pack = build_pack(group, dtype=policy.dtype, device=policy.device)
        for state, line in zip(pack.state_indices, evaluate(pack).cpu().numpy(), strict=True):
            lines[state] = line
    return lines


def _cut(lines: Sequence[FloatArray], rows: Sequence[Row]) -> list[FloatArray]:
    """Cut the padding off: as many numbers a state as it has candidates."""
    branches = [branch for row in rows for branch in row.branches]
    return [line[: branch.num_candidates] for line, branch in zip(lines, branches, strict=True)]
