"""The distributions that a turn is drawn from, differentiable: over candidates, and over freely sampled tokens.

Over candidates it is `llmgym.candidates.action_logprobs`, in torch.

Every sum of gradients runs through index_select, whose backward adds in a fixed order on CPU, so that the same seed
gives the same numbers. Knows nothing of models.
"""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor

from llmgym.errors import LearnerError
from llmgym.learner.packing import Pack
from llmgym.types import Acting, How

__all__ = ["action_logprobs", "checked_acting", "entropies", "free_draws", "padded", "sequence_logprobs"]


def checked_acting(acting: Acting) -> Acting:
    """Return how actions are drawn, unless it cannot be learned from.

    Raises:
        LearnerError: the temperature is 0 or less, or a name is unknown.
    """
    if acting.temperature <= 0:
        raise LearnerError(
            f"Expected a temperature above 0 to learn from, got {acting.temperature}: greedy actions have no gradient. "
            "Act with temperature 1 while training, and with 0 in evaluation only."
        )
    if acting.how not in get_args(How) or acting.normalize not in ("sum", "mean"):
        raise LearnerError(
            f"Expected how to be one of {', '.join(get_args(How))} and normalize to be sum or mean, got "
            f"how={acting.how!r} and normalize={acting.normalize!r}. Change the acting settings."
        )
    return acting


def action_logprobs(logits: Tensor, pack: Pack, acting: Acting) -> Tensor:
    """Return the log-probability of every candidate under the distribution that actions are drawn from.

    "score" is Carta et al. 2023 (https://arxiv.org/abs/2302.02662), equation 1, with a temperature, and so is "reason"
    behind the thought; "constrained" multiplies, point by point, the softmax over the tokens that continue a candidate.

    Args:
        logits: float32 (P, V); next-token logits at every point of the pack.
        pack: the states.
        acting: how actions are drawn; not "text".

    Returns:
        float32 (N, most candidates); -inf where a state has fewer.
    """
    if acting.how in ("score", "reason"):
        scores = sequence_logprobs(logits, pack)
        if acting.normalize == "mean":
            scores = scores / pack.path_lengths
        return torch.log_softmax(padded(scores, pack.candidates, -torch.inf) / acting.temperature, dim=-1)
    edge_logits = _at_edges(logits, pack) / acting.temperature
    renormalised = torch.log_softmax(padded(edge_logits, pack.siblings, -torch.inf), dim=-1)
    edge_logprobs = renormalised.view(-1).index_select(0, pack.sibling_order)
    return padded(padded(edge_logprobs, pack.paths, 0.0).sum(-1), pack.candidates, -torch.inf)


def free_draws(logits: Tensor, pack: Pack, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the log-probability of every free token under the distribution it was drawn from, and its entropy.

    Summed over a turn, the entropies are the usual estimate of the entropy of its whole answer: by the chain rule, that
    is the expected sum of the tokens' conditional entropies, and the answer sampled is one draw of it.

    Args:
        logits: float32 (F, V); next-token logits where each free token was drawn.
        pack: the states.
        temperature: divides the logits, above 0.

    Returns:
        float32 (N, most free tokens) each, 0 where a turn has fewer; the entropies in nats.
    """
    logprobs = torch.log_softmax(logits / temperature, dim=-1)
    drawn = logprobs.gather(1, pack.free_ids[:, None]).squeeze(1)
    return padded(drawn, pack.free, 0.0), padded(entropies(logprobs), pack.free, 0.0)


def sequence_logprobs(logits: Tensor, pack: Pack) -> Tensor:
    """Return log P(candidate | prompt): float32 (C,), summed over the candidate's tokens.

    Args:
        logits: float32 (P, V); next-token logits at every point of the pack.
        pack: the states.
    """
    edge_logprobs = _at_edges(torch.log_softmax(logits, dim=-1), pack)
    return padded(edge_logprobs, pack.paths, 0.0).sum(-1)


def entropies(logprobs: Tensor) -> Tensor:
    """Return the entropy in nats of every row of a table of log-probabilities, in which -inf is padding.

    Args:
        logprobs: float32 (N, A).

    Returns:
        float32 (N,).
    """
    # The padding is replaced before the product: 0 * -inf would be NaN, in the value and in the gradient.
    finite = logprobs.masked_fill(logprobs == -torch.inf, 0.0)
    return -(logprobs.exp() * finite).sum(-1)


def _at_edges(per_token: Tensor, pack: Pack) -> Tensor:
    """Pick float32 (E,): the entry of each edge's token at the edge's point, from (P, V)."""
    return per_token.reshape(-1).index_select(0, pack.edge_points * per_token.shape[-1] + pack.edge_ids)


def padded(flat: Tensor, table: Tensor, padding: float) -> Tensor:
    """Look a table of positions up in a flat tensor, where the position behind its end means the padding."""
    extended = torch.cat([flat, flat.new_full((1,), padding)])
    return extended.index_select(0, table.reshape(-1)).view(table.shape)
