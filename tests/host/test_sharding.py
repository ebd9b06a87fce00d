"""How calls are divided among processes, worked by hand."""

from __future__ import annotations

import torch

from llmgym.host.sharding import Piece, divide, join, update_indices


def test_contexts_are_divided_evenly_longer_parts_first() -> None:
    parts = divide(5, None, 3)
    assert [[piece.context for piece in part] for part in parts] == [[0, 1], [2, 3], [4]]
    assert all(piece.candidates is None for part in parts for piece in part)


def test_fewer_contexts_than_processes_divide_their_candidates() -> None:
    parts = divide(2, [["a", "b", "c"], ["d"]], 4)
    assert parts == [
        [Piece(0, range(0, 2))],
        [Piece(0, range(2, 3))],
        [Piece(1, range(0, 1))],
        [],
    ]


def test_contexts_without_candidates_leave_processes_idle() -> None:
    assert [len(part) for part in divide(2, None, 4)] == [1, 1, 0, 0]
    assert [len(part) for part in divide(0, [], 2)] == [0, 0]


def test_a_context_with_an_empty_list_keeps_its_place() -> None:
    parts = divide(1, [[]], 2)
    assert [piece for part in parts for piece in part] == [Piece(0, range(0, 0))]


def test_answers_are_joined_in_order_by_name() -> None:
    pieces = [Piece(0, range(0, 2)), Piece(0, range(2, 3)), Piece(1, range(0, 1))]
    results = [
        {"value": torch.tensor([1.0, 2.0]), "report": {"x": torch.tensor([[1], [2]])}},
        {"value": torch.tensor([3.0]), "report": {"x": torch.tensor([[3]])}},
        {"value": torch.tensor([4.0]), "report": {"x": torch.tensor([[4]])}},
    ]
    first, second = join(2, pieces, results)
    assert first["value"].tolist() == [1.0, 2.0, 3.0]
    assert first["report"]["x"].tolist() == [[1], [2], [3]]
    assert second["value"].tolist() == [4.0]


def test_every_process_of_an_update_gets_as_many_contexts() -> None:
    assert update_indices(6, 3) == [(0, 1), (2, 3), (4, 5)]
    assert update_indices(5, 3) == [(0, 1), (2, 3), (4, 0)]
    assert update_indices(2, 3) == [(0, 1)] * 3
