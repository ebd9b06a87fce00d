"""Candidate answers as token ids: their trie, and the distribution over them.

Both the engine that samples and the learner that recomputes use this module, so that a candidate has one
tokenization and one meaning. Knows numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from llmgym.errors import EngineError
from llmgym.types import Acting, FloatArray, TokenIds

__all__ = [
    "Trie",
    "action_logprobs",
    "build_trie",
    "close_prefixes",
    "constrained_logprobs",
    "log_softmax",
    "sequence_logprobs",
]


@dataclass(frozen=True, slots=True, eq=False)
class Trie:
    """The prefix tree of a list of candidates. Node 0 is the end of the context; every other node is one token.

    Attributes:
        tokens: token id of each node; -1 for node 0.
        parents: parent node of each node, always smaller than the node itself; -1 for node 0.
        children: child nodes of each node, in the order they were first met.
        paths: for each candidate the nodes of its tokens, in order.
        path_nodes: int64 (sum of the paths' lengths,); all paths, one behind the other.
        path_starts: int64 (num_candidates,); where each begins in `path_nodes`.
        inner_nodes: nodes with children, node 0 first: where a distribution over the next token is needed.
        first_ids: the tokens of node 0's children.
        is_flat: whether every candidate is one token, and no two are the same.
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    children: tuple[tuple[int, ...], ...]
    paths: tuple[tuple[int, ...], ...]
    path_nodes: npt.NDArray[np.int64]
    path_starts: npt.NDArray[np.int64]
    inner_nodes: tuple[int, ...]
    first_ids: TokenIds
    is_flat: bool

    def prefix(self, node: int) -> TokenIds:
        """Return the tokens from the end of the context up to and including a node."""
        tokens: list[int] = []
        while node > 0:
            tokens.append(self.tokens[node])
            node = self.parents[node]
        return tuple(reversed(tokens))


@lru_cache(maxsize=4096)
def build_trie(candidate_ids: tuple[TokenIds, ...]) -> Trie:
    """Build the trie of candidates. Duplicates share a path, and a candidate may be a prefix of another.

    Raises:
        EngineError: there is no candidate, or one has no token.

    >>> build_trie(((5, 7), (5, 8), (9,))).children
    ((1, 4), (2, 3), (), (), ())
    """
    if not candidate_ids:
        raise EngineError("Expected at least one candidate a context, got none. Give every context its actions.")
    tokens, parents = [-1], [-1]
    children: list[dict[int, int]] = [{}]
    paths = []
    for position, candidate in enumerate(candidate_ids):
        if not candidate:
            raise EngineError(
                f"Expected every candidate to have a token, but candidate {position} is empty. Give it a text."
            )
        node, path = 0, []
        for token in candidate:
            child = children[node].get(token)
            if child is None:
                child = len(tokens)
                tokens.append(token)
                parents.append(node)
                children[node][token] = child
                children.append({})
            node = child
            path.append(node)
        paths.append(tuple(path))
    path_starts = np.cumsum([0, *map(len, paths[:-1])])
    path_nodes = np.array([node for path in paths for node in path], dtype=np.int64)
    return Trie(
        tokens=tuple(tokens),
        parents=tuple(parents),
        children=tuple(tuple(one.values()) for one in children),
        paths=tuple(paths),
        path_nodes=path_nodes,
        path_starts=path_starts,
        inner_nodes=tuple(node for node, one in enumerate(children) if one),
        first_ids=tuple(children[0]),
        is_flat=len(tokens) == 1 + len(paths) == 1 + len(children[0]),
    )


@lru_cache(maxsize=4096)
def close_prefixes(candidate_ids: tuple[TokenIds, ...], eos_token_id: int | None) -> tuple[TokenIds, ...]:
    """Append the end-of-sequence token to candidates that are a proper prefix of another.

    Sampling token by token must be able to stop at such a candidate; the others end where their path does.

    Raises:
        EngineError: two candidates are the same tokens, or an end is needed and the model has none.
    """
    if len(set(candidate_ids)) < len(candidate_ids):
        twice = next(ids for ids in candidate_ids if candidate_ids.count(ids) > 1)
        raise EngineError(
            f"Expected distinct candidates to sample token by token, but {candidate_ids.count(twice)} have the "
            f"token ids {list(twice)}. Remove the duplicates, or use how='score'."
        )
    proper_prefixes = {other[:length] for other in candidate_ids for length in range(1, len(other))}
    closed = []
    for candidate in candidate_ids:
        is_prefix = candidate in proper_prefixes
        if is_prefix and eos_token_id is None:
            raise EngineError(
                f"Candidate with token ids {list(candidate)} is a prefix of another, and the tokenizer has no "
                "end-of-sequence token to end it with. Use how='score'."
            )
        closed.append((*candidate, eos_token_id) if is_prefix and eos_token_id is not None else candidate)
    return tuple(closed)


def sequence_logprobs(trie: Trie, node_logprobs: FloatArray, normalize: str = "sum") -> FloatArray:
    """Add up (or average) token log-probabilities along each candidate's path.

    Args:
        node_logprobs: float32 (num_nodes,); log P(token of the node | context, its ancestors); node 0 is ignored.
        normalize: "sum" or "mean" over the candidate's tokens.

    Returns:
        float32 (num_candidates,).
    """
    if trie.is_flat:
        return node_logprobs[1:]
    tokens = node_logprobs[trie.path_nodes]
    if len(tokens) == len(trie.paths):
        return tokens
    totals = np.add.reduceat(tokens, trie.path_starts, dtype=np.float64)
    if normalize == "mean":
        totals /= np.diff(trie.path_starts, append=len(trie.path_nodes))
    return totals.astype(np.float32)


def action_logprobs(trie: Trie, node_logprobs: FloatArray, acting: Acting) -> FloatArray:
    """Return the log-probability of every candidate under the distribution that actions are drawn from.

    "score" is Carta et al. 2023 (https://arxiv.org/abs/2302.02662), equation 1, with a temperature; "constrained"
    multiplies, node by node, the softmax over the tokens that continue a candidate.

    Args:
        trie: of the candidates; for "constrained" after `close_prefixes`.
        node_logprobs: float32 (num_nodes,); node 0 is ignored.
        acting: how; a temperature of 0 gives the best candidate probability 1.

    Returns:
        float32 (num_candidates,); sums to 1 after exp.
    """
    if acting.how == "constrained":
        renormalised = np.zeros(len(trie.tokens))
        for node in trie.inner_nodes:
            children = list(trie.children[node])
            renormalised[children] = log_softmax(node_logprobs[children], acting.temperature)
        return np.array([renormalised[list(path)].sum() for path in trie.paths], dtype=np.float32)
    scores = sequence_logprobs(trie, node_logprobs, acting.normalize)
    return np.array(_log_softmax(scores, acting.temperature), dtype=np.float32)


def constrained_logprobs(
    candidate_ids: tuple[TokenIds, ...], token_logprobs: Sequence[FloatArray], temperature: float
) -> FloatArray:
    """Return the log-probability of every candidate when it is sampled token by token among them.

    Args:
        candidate_ids: after `close_prefixes`.
        token_logprobs: float32 (num_tokens,) a candidate: of each of its tokens, given those before it.

    Returns:
        float32 (num_candidates,); sums to 1 after exp.
    """
    trie = build_trie(candidate_ids)
    node_logprobs = np.full(len(trie.tokens), np.nan, dtype=np.float32)
    for path, logprobs in zip(trie.paths, token_logprobs, strict=True):
        node_logprobs[list(path)] = logprobs
    return action_logprobs(trie, node_logprobs, Acting("constrained", temperature=temperature))


def log_softmax(
    scores: Sequence[float] | FloatArray, temperature: float
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Softmax at a temperature, in float64; at 0, all mass on the first best score."""
    return np.array(_log_softmax(scores, temperature))


def _log_softmax(scores: Sequence[float] | FloatArray, temperature: float) -> list[float]:
    """Do so in plain numbers: mostly there are a few candidates, for which numpy's calls take three times as long."""
    plain = scores.tolist() if isinstance(scores, np.ndarray) else list(scores)
    top = max(plain)
    if temperature == 0:
        best = plain.index(top)
        return [0.0 if position == best else -math.inf for position in range(len(plain))]
    shifted = [(score - top) / temperature for score in plain]
    total = math.log(sum(map(math.exp, shifted)))
    return [score - total for score in shifted]
