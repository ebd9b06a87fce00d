from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch

from llmgym.errors import LearnerError
from llmgym.learner.branch import build_branch
from llmgym.learner.packing import build_pack
from llmgym.learner.row import Row, build_rows, group_rows
from llmgym.types import Batch, TokenIds


def prompt(*ids: int) -> np.ndarray:
    return np.array(ids, np.int32)


def test_prompts_that_grow_share_one_row() -> None:
    (row,) = build_rows([prompt(1, 2), prompt(1, 2, 3), prompt(1, 2, 3, 4, 5)], [((7, 8), (9,))] * 3)
    assert row.trunk_ids.tolist() == [1, 2, 3, 4, 5]
    assert row.prompt_lengths.tolist() == [2, 3, 5]
    assert row.num_fed == 3  # token 7 of each turn; leaves are never fed


def test_a_prompt_that_slides_starts_a_row() -> None:
    rows = build_rows([prompt(1, 2, 3), prompt(2, 3, 4), prompt(2, 3, 4, 5)], [((7,),)] * 3)
    assert [row.prompt_lengths.tolist() for row in rows] == [[3], [3, 4]]
    assert [row.first_state for row in rows] == [0, 1]
    assert rows[1].state_indices.tolist() == [1, 2]


def test_a_prompt_that_changes_one_early_token_starts_a_row() -> None:
    assert len(build_rows([prompt(1, 2), prompt(3, 2, 4)], [((7,),)] * 2)) == 2


def test_equal_prompts_share_a_row() -> None:
    (row,) = build_rows([prompt(1, 2), prompt(1, 2)], [((7, 8),), ((9, 8),)])
    assert row.prompt_lengths.tolist() == [2, 2]


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(LearnerError, match=r"every prompt to have a token, but prompt 1 is empty"):
        build_rows([prompt(1), prompt()], [((7,),)] * 2)


def test_a_pack_worked_by_hand() -> None:
    candidates: tuple[TokenIds, ...] = ((7, 8, 9), (7, 6), (5,))
    rows = build_rows([prompt(1, 2), prompt(1, 2, 3)], [candidates, ((4,),)])
    pack = build_pack(rows)
    # trunk 1 2 3, then the fed tokens 7 and 7-8 of the first turn
    assert pack.input_ids.tolist() == [[1, 2, 3, 7, 8]]
    assert pack.position_ids.tolist() == [[0, 1, 2, 2, 3]]
    assert pack.end_indices.tolist() == [1, 2]
    assert pack.point_indices.tolist() == [1, 3, 4, 2]
    assert pack.branch_mask is not None
    sees = pack.branch_mask[0, 0] == 0
    assert sees.tolist() == [[True, True, False, True, False], [True, True, False, True, True]]
    # edges: 7@0, 8@1, 9@2, 6@1, 5@0 of the first turn, 4@3 of the second
    assert pack.edge_ids.tolist() == [7, 8, 9, 6, 5, 4]
    assert pack.edge_points.tolist() == [0, 1, 2, 1, 0, 3]
    assert pack.paths.tolist() == [[0, 1, 2], [0, 3, 6], [4, 6, 6], [5, 6, 6]]
    assert pack.candidates.tolist() == [[0, 1, 2], [3, 4, 4]]
    assert pack.siblings.tolist() == [[0, 4], [1, 3], [2, 6], [5, 6]]


def test_one_token_candidates_need_neither_branch_nor_mask() -> None:
    pack = build_pack(build_rows([prompt(1, 2), prompt(1, 2, 3)], [((7,), (8,))] * 2))
    assert pack.branch_mask is None
    assert pack.input_ids.tolist() == [[1, 2, 3]]


def test_padding_sees_only_the_first_token() -> None:
    rows = build_rows([prompt(1, 2), prompt(3, 4)], [((7, 8), (9, 8)), ((5, 6),)])
    pack = build_pack(rows, dtype=torch.float32)
    assert pack.branch_mask is not None
    assert (pack.branch_mask[1, 0, 1] == 0).tolist() == [True, False, False, False]


def test_a_branch_sees_ancestors_and_itself() -> None:
    branch = build_branch(((1, 2, 3, 4), (1, 5, 6)))
    assert branch.fed_ids.tolist() == [1, 2, 3, 5]
    assert branch.depths.tolist() == [1, 2, 3, 2]
    assert branch.sees_mask.astype(int).tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 1]]


def test_groups_keep_to_the_budget_and_lose_no_row(make_batch: Callable[..., Batch]) -> None:
    batch = make_batch(20)
    rows = build_rows([turn.prompt_ids for turn in batch.turns], [turn.candidate_ids for turn in batch.turns])
    for max_tokens in (1, 50, 120, 10**6):
        groups = group_rows(rows, max_tokens)
        assert sorted(row.first_state for group in groups for row in group) == [row.first_state for row in rows]
        for group in groups:
            size = len(group) * (max(row.num_trunk for row in group) + max(row.num_fed for row in group))
            assert len(group) == 1 or size <= max_tokens
            assert build_pack(group).input_ids.numel() == size


def test_rows_are_cut_where_least_is_computed() -> None:
    lengths = (100, 98, 20, 10)
    rows = build_rows([np.full(length, number, np.int32) for number, length in enumerate(lengths)], [()] * 4)

    def cut(pass_tokens: int, max_tokens: int = 10**6) -> list[list[int]]:
        return [[row.num_trunk for row in group] for group in group_rows(rows, max_tokens, pass_tokens=pass_tokens)]

    # One group: 4 x 100 tokens; two: 2 x 100 + 2 x 20; three: 10 fewer.
    assert cut(200) == [[100, 98, 20, 10]]
    assert cut(100) == [[100, 98], [20, 10]]
    assert cut(5) == [[100, 98], [20], [10]]
    assert cut(1) == [[100], [98], [20], [10]]
    assert cut(100, max_tokens=199) == [[100], [98], [20, 10]]


def test_no_other_cut_computes_less() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        num_rows = 7
        prompts = [np.full(int(rng.integers(1, 60)), number, np.int32) for number in range(num_rows)]
        candidates = [(tuple(range(1, 2 + int(rng.integers(1, 9)))),) for _ in range(num_rows)]
        rows = build_rows(prompts, candidates)

        def cost(groups: list[list[Row]]) -> int:
            sizes = [len(group) * (max(r.num_trunk for r in group) + max(r.num_fed for r in group)) for group in groups]
            return sum(size + 25 for size in sizes)

        ordered = sorted(rows, key=lambda row: (-row.num_trunk, -row.num_fed))
        every = []
        for cuts in product((False, True), repeat=num_rows - 1):
            groups = [[ordered[0]]]
            for row, is_cut in zip(ordered[1:], cuts, strict=True):
                if is_cut:
                    groups.append([])
                groups[-1].append(row)
            every.append(cost(groups))
        assert cost(group_rows(rows, 10**6, pass_tokens=25)) == min(every)
