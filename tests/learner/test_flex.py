"""The rule by which branches attend on GPUs, against the table that says the same; backward needs a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_mask

from llmgym.learner import flex
from llmgym.learner.evaluation import evaluate_scores
from llmgym.learner.flex import flex_attention_works
from llmgym.learner.loading import load_model
from llmgym.learner.packing import build_pack
from llmgym.learner.policy import Policy
from llmgym.learner.row import Row, build_rows

Make = Callable[..., Any]
CANDIDATES = [((5, 6, 7), (5, 6, 8), (5,), (9, 5, 6, 7)), ((3,), (4,)), ((9, 9, 9), (9, 8), (7, 7))]


def ragged_rows(*, feeds_ends: bool) -> list[Row]:
    """Rows of two turns, one and one, with trunks and branches of different lengths; one branch feeds nothing."""
    ids = np.arange(3, 40, dtype=np.int32)
    prompts = [ids[:6], ids[:11], ids[20:23], ids[30:37]]
    return build_rows(prompts, [CANDIDATES[0], CANDIDATES[2], CANDIDATES[1], CANDIDATES[2]], feeds_ends=feeds_ends)


@pytest.mark.parametrize("feeds_ends", [False, True])
def test_the_rule_says_what_the_table_says(feeds_ends: bool) -> None:
    rows = ragged_rows(feeds_ends=feeds_ends)
    assert [row.num_states for row in rows] == [2, 1, 1]
    table = build_pack(rows, uses_flex=False).branch_mask
    rule = build_pack(rows, uses_flex=True).branch_mask
    assert isinstance(table, Tensor)
    assert rule is not None
    assert tuple(rule.shape) == tuple(table.shape)
    num_rows, _, num_fed, width = table.shape
    assert not isinstance(rule, Tensor)
    sees = create_mask(rule.mask_mod, num_rows, 1, num_fed, width, device="cpu")
    # Padding sees the first token, and nobody looks at it: the table lets it see that one alone.
    torch.testing.assert_close(sees, table == 0)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_both_score_alike(kind: str, make_model: Make) -> None:
    policy = Policy(load_model(make_model(kind)), {}, None)
    rows = ragged_rows(feeds_ends=False)
    with torch.no_grad():
        by_table = evaluate_scores(policy, build_pack(rows, uses_flex=False))
        by_rule = evaluate_scores(policy, build_pack(rows, uses_flex=True))
    is_there = torch.isfinite(by_table)
    assert is_there.sum() == sum(len(branch.path_lengths) for row in rows for branch in row.branches)
    torch.testing.assert_close(by_rule[is_there], by_table[is_there], rtol=0, atol=1e-5)


def test_a_cpu_takes_the_table() -> None:
    assert not flex_attention_works(torch.device("cpu"))
    assert isinstance(build_pack(ragged_rows(feeds_ends=False)).branch_mask, Tensor)


def test_where_it_fails_or_differs_the_table_serves(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(device: torch.device) -> float:
        raise RuntimeError("no compiler")

    for gap, message in ((fail, "SDPA takes its place: no compiler"), (lambda device: 0.5, "differs from SDPA by 0.5")):
        flex_attention_works.cache_clear()
        monkeypatch.setattr(flex, "gap_to_sdpa", gap)
        assert not flex_attention_works(torch.device("cuda"))
        assert message in caplog.text
    flex_attention_works.cache_clear()
