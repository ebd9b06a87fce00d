"""From the log-probabilities of trie nodes to answers: scores and choices, the same for every engine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmgym.candidates import Trie, action_logprobs, sequence_logprobs
from llmgym.errors import EngineError
from llmgym.types import Acting, Choice, FloatArray, Normalize, Scores, TokenIds

__all__ = ["choose_candidates", "score_candidates"]


def score_candidates(
    tries: Sequence[Trie], node_logprobs: Sequence[FloatArray], normalize: Normalize, policy_version: int
) -> Scores:
    """Return each candidate's log-probability: its tokens' sum or mean, or the tokens' own.

    Args:
        tries: one a context.
        node_logprobs: float32 (num_nodes,) a context; node 0 is ignored.
    """
    if normalize not in ("sum", "mean", "none"):
        raise EngineError(f"Expected normalize to be 'sum', 'mean' or 'none', found {normalize!r}.")
    if normalize == "none":
        entries = [
            [logprobs[list(path)] for path in trie.paths] for trie, logprobs in zip(tries, node_logprobs, strict=True)
        ]
        return Scores(entries, policy_version)
    return Scores(
        (sequence_logprobs(trie, logprobs, normalize) for trie, logprobs in zip(tries, node_logprobs, strict=True)),
        policy_version,
    )


def choose_candidates(
    candidate_ids: Sequence[tuple[TokenIds, ...]],
    tries: Sequence[Trie],
    node_logprobs: Sequence[FloatArray],
    acting: Acting,
    seed: int | Sequence[int] | None,
    policy_version: int,
) -> list[Choice]:
    """Draw a candidate for every context from its behaviour distribution.

    A generator is made for every context, from its own seed if `seed` has one a context, else from
    (seed, position): a draw never depends on how many other contexts were answered with it.
    """
    seeds = _seeds(seed, len(tries))
    choices = []
    for ids, trie, logprobs, entropy in zip(candidate_ids, tries, node_logprobs, seeds, strict=True):
        distribution = action_logprobs(trie, logprobs, acting)
        index = _draw(distribution, np.random.default_rng(entropy))
        choices.append(Choice(index, float(distribution[index]), distribution, ids, policy_version))
    return choices


def _draw(logprobs: FloatArray, generator: np.random.Generator) -> int:
    """Draw by inverse transform sampling: one uniform number a decision."""
    cumulative = np.cumsum(np.exp(logprobs.astype(np.float64)))
    index = int(np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right"))
    return min(index, len(logprobs) - 1)


def _seeds(seed: int | Sequence[int] | None, num_contexts: int) -> list[list[int] | None]:
    if seed is None:
        return [None] * num_contexts
    if isinstance(seed, int | np.integer):
        return [[int(seed), position] for position in range(num_contexts)]
    if len(seed) != num_contexts:
        raise EngineError(f"Expected one seed a context ({num_contexts}), found {len(seed)} seeds.")
    return [[int(one)] for one in seed]
