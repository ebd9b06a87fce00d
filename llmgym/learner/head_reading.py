"""What heads say of a pack: each of what it reads, and of whose hidden states. Knows no losses."""

from __future__ import annotations

import torch
from torch import Tensor

from llmgym.errors import LearnerError
from llmgym.learner.distribution import padded
from llmgym.learner.heads import head_values, reads_of, trunk_of
from llmgym.learner.packing import Pack
from llmgym.learner.policy import Policy

__all__ = ["read_head", "read_head_at", "read_heads", "read_heads_at"]


def read_heads(policy: Policy, hidden_states: Tensor, pack: Pack) -> dict[str, Tensor]:
    """Return what every head says of a pack's N states, as in `Outputs.heads`.

    Args:
        hidden_states: (R*T, D); the policy's, of the pack.
    """
    trunks = _Trunks(policy, pack, hidden_states)
    return {name: _read(policy, name, trunks, pack) for name in policy.heads}


def read_head(policy: Policy, name: str, pack: Pack, *, hidden_states: Tensor | None = None) -> Tensor:
    """Return what one head says of a pack's N states, as in `Outputs.heads`; only its own trunk is computed.

    Args:
        hidden_states: (R*T, D); the policy's, of the pack, where they are known.
    """
    return _read(policy, name, _Trunks(policy, pack, hidden_states), pack)


def read_heads_at(policy: Policy, hidden_states: Tensor, pack: Pack, indices: Tensor) -> dict[str, Tensor]:
    """Return what every head says where something was drawn: name to float32 (num_draws,).

    Args:
        hidden_states: (R*T, D); the policy's, of the pack.
        indices: int64 (num_draws,); in the pack's flattened tokens.

    Raises:
        LearnerError: a head reads something else than what stands before a draw.
    """
    trunks = _Trunks(policy, pack, hidden_states)
    return {name: _read_at(policy, name, trunks, pack, indices) for name in policy.heads}


def read_head_at(
    policy: Policy, name: str, pack: Pack, indices: Tensor, *, hidden_states: Tensor | None = None
) -> Tensor:
    """Return what one head says where something was drawn: see `read_head` and `read_heads_at`."""
    return _read_at(policy, name, _Trunks(policy, pack, hidden_states), pack, indices)


class _Trunks:
    """Hidden states (R*T, D) of a pack, each computed when it is first asked for."""

    def __init__(self, policy: Policy, pack: Pack, shared: Tensor | None) -> None:
        self._policy, self._pack = policy, pack
        self._shared = shared
        self._separate: Tensor | None = None

    def of(self, name: str) -> Tensor:
        """Return the hidden states that a head reads."""
        if trunk_of(self._policy.heads[name]) == "separate":
            if self._separate is None:
                self._separate = self._policy.critic_states(self._pack)
            return self._separate
        if self._shared is None:
            self._shared = self._policy.hidden_states(self._pack)
        return self._shared


def _read(policy: Policy, name: str, trunks: _Trunks, pack: Pack) -> Tensor:
    """Return what a head says of a pack's states."""
    head = policy.heads[name]
    reads = reads_of(head)
    if reads == "candidates":
        assert len(pack.candidate_indices) == len(pack.paths), "rows feed ends where a head reads them"
        values = head_values(name, head, trunks.of(name).index_select(0, pack.candidate_indices))
        return padded(values, pack.candidates, -torch.inf)
    if reads == "tokens":
        indices, table = _added_tokens(pack)
        return padded(head_values(name, head, trunks.of(name).index_select(0, indices)), table, -torch.inf)
    return _read_at(policy, name, trunks, pack, pack.end_indices)


def _read_at(policy: Policy, name: str, trunks: _Trunks, pack: Pack, indices: Tensor) -> Tensor:
    """Return what a head says where prompts end, or what was drawn was drawn."""
    head = policy.heads[name]
    reads = reads_of(head)
    if reads in ("candidates", "tokens"):
        raise LearnerError(
            f"Expected heads that read one state a draw where credit is given to draws, but {name!r} reads {reads}. "
            "Give credit to turns, or leave the head out."
        )
    hidden_states = trunks.of(name)
    read = _means(hidden_states, pack, indices) if reads == "mean" else hidden_states.index_select(0, indices)
    return head_values(name, head, read)


def _means(hidden_states: Tensor, pack: Pack, indices: Tensor) -> Tensor:
    """Return (num_read, D): the mean hidden state of each place of a trunk and all tokens before it."""
    num_rows, width = pack.input_ids.shape
    sums = hidden_states.float().view(num_rows, width, -1).cumsum(dim=1).flatten(0, 1)
    counts = pack.position_ids.reshape(-1).index_select(0, indices) + 1
    return sums.index_select(0, indices) / counts[:, None]


def _added_tokens(pack: Pack) -> tuple[Tensor, Tensor]:
    """Find the tokens that every prompt adds to the one before it in its row; all of the first's.

    Returns:
        indices: int64 (M,); in the pack's flattened tokens, state after state.
        table: int64 (N, most tokens); the tokens of each state, M where there are fewer.
    """
    width = pack.input_ids.shape[1]
    ends = pack.end_indices
    row_starts = ends // width * width
    before = torch.cat([ends.new_full((1,), -1), ends[:-1]])
    starts = torch.maximum(before + 1, row_starts)
    counts = ends + 1 - starts
    offsets = counts.cumsum(0) - counts
    num_tokens = int(counts.sum())
    steps = torch.arange(int(counts.max()), device=ends.device)
    is_token = steps < counts[:, None]
    indices = (starts[:, None] + steps)[is_token]
    return indices, torch.where(is_token, offsets[:, None] + steps, num_tokens)
