"""Evaluation: run the policy over a pack and read what an algorithm needs. Knows no losses."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from llmgym.algorithms.algorithm import Outputs
from llmgym.errors import LearnerError
from llmgym.learner.attention import use_packed_attention
from llmgym.learner.distribution import action_logprobs, entropies, sequence_logprobs
from llmgym.learner.packing import Pack
from llmgym.learner.policy import Policy
from llmgym.types import Acting

__all__ = ["checked_policy", "evaluate", "evaluate_heads", "evaluate_scores"]


def evaluate(policy: Policy, pack: Pack, acting: Acting, actions: Tensor) -> Outputs:
    """Return what the policy says of a pack's N turns, differentiable.

    Args:
        policy: the model and its heads.
        pack: every state has candidates.
        acting: how actions are drawn.
        actions: int64 (N,); the actions whose log-probability is wanted.
    """
    hidden_states = policy.hidden_states(pack)
    logits = policy.logits(hidden_states.index_select(0, pack.point_indices))
    logprobs = action_logprobs(logits, pack, acting)
    return Outputs(
        logprobs=logprobs.gather(1, actions[:, None]).squeeze(1),
        action_logprobs=logprobs,
        entropies=entropies(logprobs),
        heads=policy.head_values(hidden_states.index_select(0, pack.end_indices)) if policy.heads else {},
    )


def evaluate_heads(policy: Policy, pack: Pack) -> dict[str, Tensor]:
    """Return what every head says of a pack's states: name to float32 (N,)."""
    return policy.head_values(policy.hidden_states(pack).index_select(0, pack.end_indices))


def evaluate_scores(policy: Policy, pack: Pack) -> Tensor:
    """Return log P(candidate | prompt) of a pack's candidates, float32 (N, most candidates), -inf behind the last."""
    logits = policy.logits(policy.hidden_states(pack).index_select(0, pack.point_indices))
    scores = sequence_logprobs(logits, pack)
    padded = torch.cat([scores, scores.new_full((1,), -torch.inf)])
    return padded.index_select(0, pack.candidates.reshape(-1)).view(pack.candidates.shape)


@torch.no_grad()
def checked_policy(policy: Policy, *, tolerance: float = 1e-3) -> Policy:
    """Return a policy, unless a packed row differs from the model's own plain forward pass on a few tokens.

    Some models read positions or masks in their own way, or change the logits behind the output embeddings: those
    would be learned wrong in silence.

    Raises:
        LearnerError: the two differ.
    """
    from llmgym.learner.packing import build_pack
    from llmgym.learner.row import build_rows

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
        logits = policy.causal_model(input_ids=input_ids, use_cache=False).logits[0].float()
    finally:
        use_packed_attention(policy.causal_model)
    logprobs = torch.log_softmax(logits[len(context) - 1 : -1], dim=-1)
    return float(logprobs.gather(1, input_ids[0, len(context) :, None]).sum())
