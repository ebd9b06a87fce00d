"""Which asks score the candidates of one context, counted in tokens that must be computed.

Asked for the tokens that may follow the context, a backend has computed the context. What follows it shares that,
but for the few tokens that the backend computes anew for each ask. There are two ways to ask for the deeper nodes of
the candidates' trie:

- one ask a distinct prefix (a node with children), answered by the log-probabilities of the tokens that may follow;
- one ask a whole candidate, answered by the log-probability of each of its own tokens.

Knows no engine.
"""

from __future__ import annotations

import numpy as np

from llmgym.candidates import Trie
from llmgym.types import FloatArray

__all__ = ["plan_paths", "plan_prefixes"]


def plan_prefixes(trie: Trie, node_logprobs: FloatArray) -> list[tuple[int, tuple[int, ...]]]:
    """Return the prefixes that tell what is still unknown: (node, its children of unknown log-probability).

    Args:
        node_logprobs: float32 (num_nodes,); NaN where unknown.
    """
    plan = []
    for node in trie.inner_nodes:
        unknown = tuple(child for child in trie.children[node] if np.isnan(node_logprobs[child]))
        if unknown:
            plan.append((node, unknown))
    return plan


def plan_paths(trie: Trie, num_recomputed_tokens: int | None) -> list[tuple[int, ...]]:
    """Return the paths to ask for, each a leaf's nodes in order; none where prefixes compute fewer tokens.

    The last token of a path or prefix costs nothing but its own row of logits. Candidates that are a prefix of another
    are answered along with it.

    Args:
        trie: of the candidates; its first tokens are answered for.
        num_recomputed_tokens: tokens of the context that every ask computes anew; None if paths cannot be asked for.

    >>> from llmgym.candidates import build_trie
    >>> plan_paths(build_trie(((1, 2, 3, 4), (5, 6, 7, 8))), 0)  # 2 x 3 tokens, not 2 x (1 + 2 + 3)
    [(1, 2, 3, 4), (5, 6, 7, 8)]
    >>> plan_paths(build_trie(((1, 2), (1, 3), (4,))), 0)  # one prefix for both
    []
    """
    if num_recomputed_tokens is None:
        return []
    leaves = {path[-1]: path for path in trie.paths if not trie.children[path[-1]] and len(path) > 1}
    depths = [0] * len(trie.tokens)
    for node in range(1, len(depths)):
        depths[node] = depths[trie.parents[node]] + 1
    prefixes = sum(num_recomputed_tokens + depths[node] for node in trie.inner_nodes if node)
    paths = sum(num_recomputed_tokens + len(path) - 1 for path in leaves.values())
    return list(leaves.values()) if paths < prefixes else []
