"""A branch: the trie of one turn's candidates as flat arrays, ready to hang off the end of its prompt.

Knows nothing of prompts, rows or models.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from llmgym.candidates import build_trie
from llmgym.types import TokenIds

__all__ = ["EMPTY_BRANCH", "Branch", "build_branch"]

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Branch:
    """The trie of a list of candidates, as arrays.

    A trie node with children is a *point*: a distribution over the next token is needed there. Point 0 is the end of
    the prompt, the others are fed to the model after it. Every node but the root is an *edge*: one token, predicted
    at its parent's point. Leaves are edges only, and fed, behind the points, only where the ends of candidates are to
    be read.

    Attributes:
        fed_ids: int64 (num_fed,); token of each fed node, parents before children.
        depths: int64 (num_fed,); tokens from the prompt's end, 1 for its first continuation.
        sees_mask: bool (num_fed, num_fed); True where the column is the row's point itself or an ancestor of it.
        edge_points: int64 (num_edges,); the point each edge is predicted at.
        edge_ids: int64 (num_edges,); token of each edge.
        sibling_edges: int64 (num_edges,); the edges in order of their point, so that siblings are neighbours.
        num_siblings: int64 (num_points,); how many edges leave each point.
        path_edges: int64 (sum of lengths,); the edges of each candidate, candidate after candidate.
        path_lengths: int64 (num_candidates,); number of tokens of each candidate.
        end_places: int64 (num_candidates,); where the last token of each candidate is fed; empty where leaves are not.
    """

    fed_ids: IntArray
    depths: IntArray
    sees_mask: BoolArray
    edge_points: IntArray
    edge_ids: IntArray
    sibling_edges: IntArray
    num_siblings: IntArray
    path_edges: IntArray
    path_lengths: IntArray
    end_places: IntArray

    @property
    def num_fed(self) -> int:
        """Number of tokens the branch adds to its row."""
        return len(self.fed_ids)

    @property
    def num_points(self) -> int:
        """Number of distributions that are needed; all but the first are fed, before the leaves."""
        return len(self.num_siblings)

    @property
    def num_edges(self) -> int:
        """Number of tokens to predict."""
        return len(self.edge_ids)

    @property
    def num_candidates(self) -> int:
        """Number of candidates, duplicates counted."""
        return len(self.path_lengths)


@lru_cache(maxsize=4096)
def build_branch(candidate_ids: tuple[TokenIds, ...], *, feeds_ends: bool = False) -> Branch:
    """Flatten the trie of candidates.

    Args:
        candidate_ids: at least one.
        feeds_ends: whether the last tokens of candidates are fed, too, for heads that read them.

    Raises:
        EngineError: there is no candidate, or one has no token.

    >>> branch = build_branch(((5, 7), (5, 8), (9,)))
    >>> branch.fed_ids.tolist(), branch.edge_ids.tolist(), branch.edge_points.tolist()
    ([5], [5, 7, 8, 9], [0, 1, 1, 0])
    >>> build_branch(((5, 7), (5, 8), (9,)), feeds_ends=True).end_places.tolist()
    [1, 2, 3]
    """
    trie = build_trie(candidate_ids)
    fed = [node for node in trie.inner_nodes if node]
    if feeds_ends:
        fed += [node for node in range(1, len(trie.tokens)) if not trie.children[node]]
    point_of = {node: point for point, node in enumerate(trie.inner_nodes)}
    place_of = {node: place for place, node in enumerate(fed)}
    sees_mask = np.eye(len(fed), dtype=np.bool_)
    depths = np.ones(len(fed), dtype=np.int64)
    for number, node in enumerate(fed):
        parent = trie.parents[node]
        if parent:
            sees_mask[number] |= sees_mask[point_of[parent] - 1]
            depths[number] = depths[point_of[parent] - 1] + 1
    return Branch(
        fed_ids=_integers(trie.tokens[node] for node in fed),
        depths=depths,
        sees_mask=sees_mask,
        edge_points=_integers(point_of[parent] for parent in trie.parents[1:]),
        edge_ids=_integers(trie.tokens[1:]),
        sibling_edges=_integers(child - 1 for node in trie.inner_nodes for child in trie.children[node]),
        num_siblings=_integers(len(trie.children[node]) for node in trie.inner_nodes),
        path_edges=_integers(node - 1 for path in trie.paths for node in path),
        path_lengths=_integers(len(path) for path in trie.paths),
        end_places=_integers(place_of[path[-1]] for path in trie.paths) if feeds_ends else _integers(()),
    )


def _integers(values: Iterable[int]) -> IntArray:
    """Collect integers into an int64 array."""
    return np.array(list(values), dtype=np.int64)


EMPTY_BRANCH = Branch(
    fed_ids=np.zeros(0, np.int64),
    depths=np.zeros(0, np.int64),
    sees_mask=np.zeros((0, 0), np.bool_),
    edge_points=np.zeros(0, np.int64),
    edge_ids=np.zeros(0, np.int64),
    sibling_edges=np.zeros(0, np.int64),
    num_siblings=np.zeros(1, np.int64),
    path_edges=np.zeros(0, np.int64),
    path_lengths=np.zeros(0, np.int64),
    end_places=np.zeros(0, np.int64),
)
"""The branch of a state that is only valued: no candidate, nothing fed."""
