"""What candidates of different lengths are worth, by hand: under a model to which all tokens are equally likely."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from llmgym.candidates import action_logprobs, build_trie, close_prefixes, sequence_logprobs
from llmgym.types import Acting, TokenIds

EOS = 0
VOCAB_SIZE = 64
SYNONYMS: tuple[TokenIds, ...] = ((5,), (6, 7, 8))


def uniform(candidate_ids: tuple[TokenIds, ...], acting: Acting) -> list[float]:
    """Return the probability of every candidate where each token has a probability of 1 in 64."""
    trie = build_trie(candidate_ids)
    logprobs = action_logprobs(trie, np.full(len(trie.tokens), -np.log(VOCAB_SIZE), np.float32), acting)
    return np.exp(logprobs.astype(np.float64)).tolist()


@pytest.mark.parametrize(
    ("acting", "odds"),
    [
        (Acting("score", "sum"), 64.0**2),
        (Acting("score", "sum", 2.0), 64.0),
        (Acting("score", "mean"), 1.0),
        (Acting("score", "mean", 0.5), 1.0),
        (Acting("constrained"), 1.0),
        (Acting("constrained", temperature=0.5), 1.0),
    ],
    ids=str,
)
def test_a_sum_prefers_the_shorter_of_two_synonyms_and_nothing_else_does(acting: Acting, odds: float) -> None:
    short, long = uniform(SYNONYMS, acting)
    assert short / long == pytest.approx(odds, rel=1e-5)
    assert short + long == pytest.approx(1.0)


def test_constrained_prefers_what_branches_off_early() -> None:
    # "go", "go left" and "stop": half for each first token, and a quarter for each way to go on.
    closed = close_prefixes(((5,), (5, 6), (7,)), EOS)
    assert uniform(closed, Acting("constrained")) == pytest.approx([0.25, 0.25, 0.5])


def test_probabilities_of_a_complete_trie_add_up_to_1_and_of_all_that_ends_to_less() -> None:
    rng = np.random.default_rng(0)
    words = [ids for length in range(4) for ids in product((1, 2, 3), repeat=length)]
    ended = [(*ids, EOS) for ids in words if len(ids) < 3]
    trie = build_trie((*ended, *(ids for ids in words if len(ids) == 3)))
    node_logprobs = np.zeros(len(trie.tokens), np.float32)
    for node in trie.inner_nodes:
        children = list(trie.children[node])
        assert len(children) == 4, "every token goes on from every node"
        node_logprobs[children] = np.log(rng.dirichlet(np.ones(4)))
    probabilities = np.exp(sequence_logprobs(trie, node_logprobs).astype(np.float64))
    assert probabilities.sum() == pytest.approx(1.0, abs=1e-6)
    assert 0.1 < probabilities[: len(ended)].sum() < 1.0
    constrained = action_logprobs(trie, node_logprobs, Acting("constrained"))
    np.testing.assert_allclose(np.exp(constrained), probabilities, atol=1e-6, err_msg="nothing is left to renormalise")
