"""From the log-probabilities of trie nodes to answers: scores and draws, the same for every backend."""

from __future__ import annotations

import math
import os
from bisect import bisect_right
from collections.abc import Sequence
from hashlib import blake2b
from itertools import accumulate

import numpy as np

from llmgym.candidates import Trie, action_logprobs, sequence_logprobs
from llmgym.errors import EngineError
from llmgym.types import Acting, FloatArray, Normalize, Scores

__all__ = ["Entropy", "choose_candidate", "entropies_of", "sampling_seed", "score_candidates"]

Entropy = list[int] | None
"""Seed material of one decision's draws; None for draws that cannot be repeated."""


def score_candidates(
    tries: Sequence[Trie], node_logprobs: Sequence[FloatArray], normalize: Normalize, policy_version: int
) -> Scores:
    """Return each candidate's log-probability: its tokens' sum or mean, or the tokens' own.

    Args:
        tries: one a context.
        node_logprobs: float32 (num_nodes,) a context; node 0 is ignored.
    """
    if normalize == "none":
        entries = [
            [logprobs[list(path)] for path in trie.paths] for trie, logprobs in zip(tries, node_logprobs, strict=True)
        ]
        return Scores(entries, policy_version)
    return Scores(
        (sequence_logprobs(trie, logprobs, normalize) for trie, logprobs in zip(tries, node_logprobs, strict=True)),
        policy_version,
    )


def choose_candidate(trie: Trie, node_logprobs: FloatArray, acting: Acting, entropy: Entropy) -> tuple[int, FloatArray]:
    """Draw a candidate from its behaviour distribution; return its index and the distribution.

    Args:
        node_logprobs: float32 (num_nodes,).
        entropy: of the draw.

    Returns:
        the index, and float32 (num_candidates,): every candidate's log-probability.
    """
    distribution = action_logprobs(trie, node_logprobs, acting)
    return _draw(distribution, _uniform(entropy)), distribution


def entropies_of(seed: int | Sequence[int] | None, num_contexts: int) -> list[Entropy]:
    """Return the entropy of each context's draws: from its own seed if there is one a context, else from its place.

    A draw never depends on how many other contexts are answered with it.

    Raises:
        EngineError: there are more or fewer seeds than contexts.
    """
    if seed is None:
        return [None] * num_contexts
    if isinstance(seed, int | np.integer):
        return [[int(seed), position] for position in range(num_contexts)]
    if len(seed) != num_contexts:
        raise EngineError(f"Expected one seed a context ({num_contexts}), found {len(seed)} seeds.")
    return [[int(one)] for one in seed]


def sampling_seed(entropy: Entropy) -> int | None:
    """Return the seed with which a backend samples tokens."""
    return None if entropy is None else int(np.random.SeedSequence(entropy).generate_state(1)[0])


def _draw(logprobs: FloatArray, uniform: float) -> int:
    """Draw by inverse transform sampling.

    Args:
        uniform: in [0, 1).
    """
    # Plain numbers: a decision is among a few actions, which numpy's calls would take several times as long for.
    cumulative = list(accumulate(map(math.exp, logprobs.tolist())))
    return min(bisect_right(cumulative, uniform * cumulative[-1]), len(cumulative) - 1)


def _uniform(entropy: Entropy) -> float:
    """Return a number in [0, 1) that entropy decides: its hash, which takes a tenth of the time of a generator."""
    digest = os.urandom(8) if entropy is None else blake2b(repr(entropy).encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53
