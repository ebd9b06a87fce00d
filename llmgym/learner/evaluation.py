"""Evaluation: run the policy over a pack and read what an algorithm needs. Knows no losses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from llmgym.algorithms.algorithm import Guides
from llmgym.algorithms.units import Credit, Outputs
from llmgym.errors import LearnerError
from llmgym.learner.attention import use_packed_attention
from llmgym.learner.distribution import action_logprobs, entropies, free_draws, padded, sequence_logprobs
from llmgym.learner.head_reading import read_head, read_head_at, read_heads, read_heads_at
from llmgym.learner.packing import Pack
from llmgym.learner.policy import Policy
from llmgym.learner.precision import SCORE_TOLERANCES, autocast
from llmgym.learner.reading import Reading
from llmgym.types import Acting

__all__ = [
    "DrawPlaces",
    "Draws",
    "checked_policy",
    "draw_places",
    "evaluate",
    "evaluate_draws",
    "evaluate_guided",
    "evaluate_head_at_draws",
    "evaluate_past",
    "evaluate_scores",
]


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """What the policy says of everything that N turns drew, differentiable.

    Attributes:
        free_logprobs: float32 (N, most free tokens); of every token sampled freely, 0 where a turn has fewer.
        free_entropies: float32 (N, most free tokens); of the distribution each was drawn from, in nats; 0 likewise.
        action_logprobs: float32 (N, most candidates); of every action given the free tokens, -inf where a turn has
            fewer; (N, 0) for "text", which draws none.
    """

    free_logprobs: Tensor
    free_entropies: Tensor
    action_logprobs: Tensor

    def logprobs(self, actions: Tensor) -> Tensor:
        """Return float32 (N,): the log-probability of all that each turn drew, its free tokens and its action."""
        free = self.free_logprobs.sum(-1)
        if self.action_logprobs.shape[1] == 0:
            return free
        return free + self.action_logprobs.gather(1, actions[:, None]).squeeze(1)

    def entropies(self) -> Tensor:
        """Return float32 (N,): the entropy of each turn's draws; along the tokens drawn, where they are free."""
        return self.free_entropies.sum(-1) + entropies(self.action_logprobs)

    def each(self, actions: Tensor, places: DrawPlaces) -> tuple[Tensor, Tensor]:
        """Return float32 (num_draws,) twice: the log-probability of every draw of every turn, and its entropy."""
        logprobs, spread = self.free_logprobs, self.free_entropies
        if self.action_logprobs.shape[1]:
            taken = self.action_logprobs.gather(1, actions[:, None])
            logprobs = torch.cat([logprobs, taken], dim=1)
            spread = torch.cat([spread, entropies(self.action_logprobs)[:, None]], dim=1)
        return places.of(logprobs), places.of(spread)


@dataclass(frozen=True, slots=True, eq=False)
class DrawPlaces:
    """Which entries of tables (N, most free tokens and the action) are draws, and where each was drawn.

    Attributes:
        positions: int64 (num_draws,); positions in the flattened tables, turn after turn.
        indices: int64 (num_draws,); where each was drawn, in the flattened R*T tokens of the pack.
    """

    positions: Tensor
    indices: Tensor

    def of(self, table: Tensor) -> Tensor:
        """Pick float32 (num_draws,): the entries of a table that are draws."""
        return table.reshape(-1).index_select(0, self.positions)


def draw_places(pack: Pack, acting: Acting) -> DrawPlaces:
    """Find the draws of a pack's turns: their free tokens, and behind them their action unless it is named by them."""
    num_free = len(pack.free_indices)
    is_draw = pack.free < num_free
    indices = padded(pack.free_indices, pack.free, 0)
    if acting.how != "text":
        is_draw = torch.cat([is_draw, is_draw.new_ones(len(is_draw), 1)], dim=1)
        indices = torch.cat([indices, pack.context_indices[:, None]], dim=1)
    positions = is_draw.reshape(-1).nonzero().squeeze(1)
    return DrawPlaces(positions, indices.reshape(-1).index_select(0, positions))


def evaluate(
    policy: Policy,
    pack: Pack,
    acting: Acting,
    actions: Tensor,
    *,
    credit: Credit = "turn",
    reading: Reading | None = None,
) -> Outputs:
    """Return what the policy says of a pack's N turns, or of all their draws, differentiable.

    Args:
        policy: the model and its heads.
        pack: every state has candidates, or free tokens.
        acting: how actions are drawn.
        actions: int64 (N,); the actions whose log-probability is wanted.
        credit: what a unit is.
        reading: the tokens whose log-probability is wanted, too.
    """
    hidden_states = policy.hidden_states(pack)
    draws = _read_draws(policy, hidden_states, pack, acting)
    read = None if reading is None else policy.logits(hidden_states.index_select(0, reading.indices))
    text_logprobs = None if reading is None or read is None else reading.mean_logprobs(read)
    if credit == "turn":
        logprobs, spread, action_logprobs = draws.logprobs(actions), draws.entropies(), draws.action_logprobs
        heads = read_heads(policy, hidden_states, pack)
    else:
        found = draw_places(pack, acting)
        logprobs, spread = draws.each(actions, found)
        action_logprobs = draws.action_logprobs.new_zeros(len(found.indices), 0)
        heads = read_heads_at(policy, hidden_states, pack, found.indices)
    return Outputs(logprobs, action_logprobs, spread, heads, text_logprobs)


def evaluate_draws(policy: Policy, pack: Pack, acting: Acting) -> Draws:
    """Return what the policy says of what a pack's turns drew."""
    return _read_draws(policy, policy.hidden_states(pack), pack, acting)


def evaluate_guided(policy: Policy, pack: Pack, acting: Acting, guide: Guides, beta: float) -> Tensor:
    """Return the log-probability of every action where an algorithm's heads guide the policy.

    It is log pi(a | s) + beta * guidance(a) / temperature, less what makes the probabilities add up to 1: at
    temperature 1, ILQL's pi(a | s) * exp(beta * (Q(s, a) - V(s))) (Snell et al. 2022, https://arxiv.org/abs/2206.11871).

    Returns:
        float32 (N, most candidates); -inf where a state has fewer.
    """
    hidden_states = policy.hidden_states(pack)
    logprobs = _read_draws(policy, hidden_states, pack, acting).action_logprobs
    pulls = guide.guidance(read_heads(policy, hidden_states, pack))
    pulls = pulls.masked_fill(pack.candidates == len(pack.paths), 0.0)
    return torch.log_softmax(logprobs + beta / acting.temperature * pulls, dim=-1)


def evaluate_past(
    policy: Policy, pack: Pack, acting: Acting, actions: Tensor, head: str, *, credit: Credit = "turn"
) -> tuple[Tensor, Tensor]:
    """Return what a head and the policy say of the past, from one pass.

    Args:
        pack: states that turns were taken in, and states that are only valued, without candidates or free tokens.
        actions: int64 (N,); those taken, and anything in states that are only valued.
        head: reads states.
        credit: what a unit is.

    Returns:
        values: of turns, float32 (N, 1), where prompts end; of draws, as `evaluate_head_at_draws` gives them.
        logprobs: of turns, float32 (N, 1), of all that each drew; of draws, float32 (N, most free tokens + 1), the
            action's last, and no column for it where "text" draws none. Of states that are only valued, anything.
    """
    hidden_states = policy.hidden_states(pack)
    draws = _read_draws(policy, hidden_states, pack, acting)
    if credit == "turn":
        values = read_head(policy, head, pack, hidden_states=hidden_states)
        return values[:, None], draws.logprobs(actions)[:, None]
    logprobs = draws.free_logprobs
    if draws.action_logprobs.shape[1]:
        logprobs = torch.cat([logprobs, draws.action_logprobs.gather(1, actions[:, None])], dim=1)
    return evaluate_head_at_draws(policy, pack, head, hidden_states=hidden_states), logprobs


def evaluate_head_at_draws(policy: Policy, pack: Pack, head: str, *, hidden_states: Tensor | None = None) -> Tensor:
    """Return what a head says where each state's free tokens were drawn, and last where its context ends.

    Args:
        hidden_states: (R*T, D); the policy's, of the pack, where they are known.

    Returns:
        float32 (N, most free tokens + 1); 0 where a state has fewer.
    """
    indices = torch.cat([pack.free_indices, pack.context_indices])
    values = read_head_at(policy, head, pack, indices, hidden_states=hidden_states)
    free, at_ends = values[: len(pack.free_indices)], values[len(pack.free_indices) :]
    return torch.cat([padded(free, pack.free, 0.0), at_ends[:, None]], dim=1)


def evaluate_scores(policy: Policy, pack: Pack) -> Tensor:
    """Return log P(candidate | prompt) of a pack's candidates, float32 (N, most candidates), -inf behind the last."""
    logits = policy.logits(policy.hidden_states(pack).index_select(0, pack.point_indices))
    return padded(sequence_logprobs(logits, pack), pack.candidates, -torch.inf)


def _read_draws(policy: Policy, hidden_states: Tensor, pack: Pack, acting: Acting) -> Draws:
    """Read what was drawn off the hidden states (R*T, D) of a pack."""
    nothing = torch.zeros(len(pack.end_indices), 0, device=hidden_states.device)
    free_logprobs, free_entropies, actions = nothing, nothing, nothing
    if len(pack.free_indices):
        logits = policy.logits(hidden_states.index_select(0, pack.free_indices))
        free_logprobs, free_entropies = free_draws(logits, pack, acting.temperature)
    if acting.how != "text":
        actions = action_logprobs(policy.logits(hidden_states.index_select(0, pack.point_indices)), pack, acting)
    return Draws(free_logprobs, free_entropies, actions)


@torch.no_grad()
def checked_policy(policy: Policy, *, tolerance: float | None = None) -> Policy:
    """Return a policy, unless a packed row differs from the model's own plain forward pass on a few tokens.

    Some models read positions or masks in their own way, or change the logits behind the output embeddings: those
    would be learned wrong in silence.

    Raises:
        LearnerError: the two differ.
    """
    from llmgym.learner.packing import build_pack
    from llmgym.learner.row import build_rows

    tolerance = SCORE_TOLERANCES[policy.precision] if tolerance is None else tolerance
    vocab_size = policy.causal_model.get_input_embeddings().weight.shape[0]
    ids = [int(token) for token in np.random.default_rng(0).integers(vocab_size, size=9)]
    prompt, (a, b, c, d) = np.array(ids[:5], np.int32), ids[5:]
    longer = np.array([*ids[:5], a, b], np.int32)
    candidates = ((a, b, c), (a, d), (d,))
    pack = build_pack(build_rows([prompt, longer], [candidates] * 2), dtype=policy.dtype, device=policy.device)
    packed = evaluate_scores(policy, pack).cpu()
    for row, context in zip(packed, (prompt, longer), strict=True):
        for score, candidate in zip(row.tolist(), candidates, strict=True):
            plain = _plain_score(policy, context.tolist(), candidate)
            if not abs(plain - score) <= tolerance * max(1.0, abs(plain)):
                raise LearnerError(
                    f"Expected a packed row to score as {type(policy.causal_model).__name__} does alone, but packed "
                    f"gives {score:.6f} and alone {plain:.6f}. This architecture cannot be learned with packed rows; "
                    "use one with plain causal attention and position ids, such as Llama, Qwen2 or GPT-2."
                )
    return policy


def _plain_score(policy: Policy, context: list[int], candidate: tuple[int, ...]) -> float:
    """Return log P(candidate | context) from the model's own logits."""
    input_ids = torch.tensor([[*context, *candidate]], device=policy.device)
    policy.causal_model.set_attn_implementation(policy.plain_attention)
    try:
        with autocast(policy.precision, policy.device):
            logits = policy.causal_model(input_ids=input_ids, use_cache=False).logits[0].float()
    finally:
        use_packed_attention(policy.causal_model)
    logprobs = torch.log_softmax(logits[len(context) - 1 : -1], dim=-1)
    return float(logprobs.gather(1, input_ids[0, len(context) :, None]).sum())
