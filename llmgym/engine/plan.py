"""Which requests score the candidates of one context, counted in tokens that must be computed.

The context's full blocks come from the prefix cache; what follows its last full block is computed anew for every
request. There are two ways to ask:

- one request a distinct prefix (a trie node with children), answered by the log-probabilities of the tokens that
  may follow it;
- one request a whole candidate, answered by the log-probability of each of its own tokens.

Knows no engine.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmgym.candidates import Trie

__all__ = ["NextTokens", "WholePath", "is_whole_cheaper", "plan_prefixes", "plan_whole"]

MAX_TOKENS_A_REQUEST = 128
"""vLLM's limit on `SamplingParams.logprob_token_ids`."""


@dataclass(frozen=True, slots=True)
class NextTokens:
    """Ask for the log-probabilities of some children of a node, given the context and the node's prefix."""

    node: int
    children: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class WholePath:
    """Ask for the log-probability of every token of a path that ends in a leaf, given the context."""

    path: tuple[int, ...]


def plan_prefixes(trie: Trie, nodes: frozenset[int] | None = None) -> list[NextTokens]:
    """Return one request a node with children; a wide node takes several.

    Args:
        nodes: the nodes whose log-probability is wanted; None for all.
    """
    requests = []
    for node in trie.inner_nodes:
        children = [child for child in trie.children[node] if nodes is None or child in nodes]
        for start in range(0, len(children), MAX_TOKENS_A_REQUEST):
            requests.append(NextTokens(node, tuple(children[start : start + MAX_TOKENS_A_REQUEST])))
    return requests


def plan_whole(trie: Trie) -> list[WholePath]:
    """Return one request a leaf; candidates that are a prefix of another are answered along with it."""
    leaves = {path[-1]: path for path in trie.paths if not trie.children[path[-1]]}
    return [WholePath(path) for path in leaves.values()]


def is_whole_cheaper(trie: Trie, num_context_tokens: int, block_size: int) -> bool:
    """Tell which way computes fewer tokens, the context's own full blocks left out: both share those.

    >>> from llmgym.candidates import build_trie
    >>> is_whole_cheaper(build_trie(((1, 2, 3, 4), (5, 6, 7, 8))), 40, 32)  # 2 x 12 tokens, not 8 + 2 x (9+10+11)
    True
    >>> is_whole_cheaper(build_trie(((1,), (2,), (3,))), 40, 32)  # one request for all of them
    False
    """
    rest = num_context_tokens % block_size
    depths = [0] * len(trie.tokens)
    for node in range(1, len(depths)):
        depths[node] = depths[trie.parents[node]] + 1
    root = rest or block_size
    prefixes = sum((rest + depths[request.node]) if request.node else root for request in plan_prefixes(trie))
    whole = sum(rest + len(request.path) for request in plan_whole(trie))
    if not rest:
        whole += root
    return whole < prefixes
