"""Muon, against the singular value decomposition and against torch's own, and a checkpoint of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llmgym.algorithms import BehaviourCloning
from llmgym.errors import LearnerError
from llmgym.learner import Learner
from llmgym.learner.muon import AdamWithMuon, orthogonalized

Make = Callable[..., Any]


@pytest.mark.parametrize("shape", [(16, 16), (8, 32), (48, 12)])
def test_singular_vectors_stay_and_singular_values_come_near_to_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    diagonal = u.T @ orthogonalized(matrix) @ vh.T
    off_diagonal = diagonal - torch.diag(diagonal.diagonal())
    assert float(off_diagonal.abs().max()) < 1e-4
    assert 0.3 < float(diagonal.diagonal().min()) < float(diagonal.diagonal().max()) < 1.6


@pytest.mark.parametrize("shape", [(16, 16), (16, 24), (16, 25), (24, 16), (48, 12)])
def test_long_and_square_matrices_go_the_same_way_step_by_step(shape: tuple[int, int]) -> None:
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    a, b, c = 3.4445, -4.7750, 2.0315
    expected = matrix / matrix.norm()
    for _ in range(5):
        gram = expected @ expected.T
        expected = a * expected + b * gram @ expected + c * gram @ gram @ expected
    torch.testing.assert_close(orthogonalized(matrix), expected)
    torch.testing.assert_close(orthogonalized(matrix.float()), expected.float(), rtol=0, atol=1e-5)


def test_no_gradient_makes_no_step() -> None:
    assert not orthogonalized(torch.zeros(4, 6)).any()


def test_steps_are_those_of_torchs_muon_up_to_its_number_format() -> None:
    start = torch.randn(24, 40, generator=torch.Generator().manual_seed(1))
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    group = {"params": [ours], "lr": 0.01, "weight_decay": 0.1, "is_muon": True}
    optimizer = AdamWithMuon([group])
    reference = torch.optim.Muon([theirs], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for step in range(4):
        gradient = torch.randn(24, 40, generator=torch.Generator().manual_seed(10 + step))
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        optimizer.step()
        reference.step()
    moved = float((theirs.detach() - start).norm())
    assert float((ours.detach() - theirs.detach()).norm()) < 0.05 * moved


def test_matrices_go_with_muon_and_the_rest_with_adamw(make_model: Make, make_batch: Make) -> None:
    learner = Learner(make_model(), algorithm=BehaviourCloning(1, 1000), optimizer="muon", learning_rate=1e-3)
    learner.update(make_batch())
    names = {id(parameter): name for name, parameter in learner.policy.named_parameters()}
    state = learner._optimizer.state
    by_muon = {names[id(parameter)] for parameter, entries in state.items() if "momentum" in entries}
    by_adam = {names[id(parameter)] for parameter, entries in state.items() if "exp_avg" in entries}
    assert any("q_proj" in name for name in by_muon)
    assert all("layers" in name and name.endswith("proj.weight") for name in by_muon)
    assert any("embed_tokens" in name for name in by_adam)
    assert any("lm_head" in name for name in by_adam)
    assert not by_muon & by_adam


def test_a_run_with_muon_goes_on_from_its_checkpoint_to_the_same_numbers(
    make_model: Make, make_batch: Make, tmp_path: Path
) -> None:
    make_model().save_pretrained(tmp_path / "model")
    learner = Learner(tmp_path / "model", algorithm=BehaviourCloning(2, 8), optimizer="muon", learning_rate=1e-2)
    losses = [learner.update(make_batch(10))["clone_loss"] for _ in range(3)]
    assert losses[-1] < 0.7 * losses[0]
    learner.save(tmp_path / "saved")
    expected = learner.update(make_batch(10))
    assert Learner.load(tmp_path / "saved").update(make_batch(10)) == expected


def test_unknown_optimizer_is_refused_with_those_there_are(make_model: Make) -> None:
    with pytest.raises(
        LearnerError, match="an optimizer among adamw, muon, adamw-8bit, adamw-paged, adamw-paged-8bit, got 'sgd'"
    ):
        Learner(make_model(), optimizer="sgd")  # type: ignore[arg-type]
