"""Sums over units: however a minibatch is cut, its parts add up to the same loss, for every algorithm."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from llmgym.algorithms import ALGORITHMS, Algorithm, Outputs, Targets, Transitions
from llmgym.algorithms.algorithm import ReadsText
from llmgym.algorithms.dr_grpo import DrGRPO
from llmgym.algorithms.grpo import GRPO
from llmgym.algorithms.gspo import GSPO
from llmgym.algorithms.rloo import RLOO

LENGTHS = (1.0, 3.0, 3.0, 3.0, 2.0, 2.0)
"""Three trajectories, of one, three and two units."""


def make_outputs(logprobs: torch.Tensor) -> Outputs:
    values = torch.linspace(-1, 1, len(logprobs))
    qs = values[:, None] + torch.tensor([0.3, -0.2, -torch.inf])
    heads = {"value": values, "q1": qs, "q2": -qs.flip(0).abs(), "target_q1": qs + 1, "target_q2": qs.abs()}
    return Outputs(logprobs, torch.zeros(len(logprobs), 0), -logprobs, heads)


def make_targets(behaviour: torch.Tensor, advantages: torch.Tensor) -> Targets:
    ones = torch.ones(len(behaviour))
    return Targets(
        actions=torch.zeros(len(behaviour), dtype=torch.int64),
        behaviour_logprobs=behaviour,
        advantages=advantages,
        normalized_advantages=advantages,
        returns=advantages,
        values=torch.zeros(len(behaviour)),
        num_units=len(behaviour),
        num_draws=ones,
        trajectory_units=torch.tensor(LENGTHS),
        num_trajectories=3.0,
        reference_logprobs=behaviour - 0.1,
        transitions=Transitions(advantages, ones / 2, behaviour, ones > 0),
    )


def part(outputs: Outputs, targets: Targets, start: int, stop: int) -> tuple[Outputs, Targets]:
    cut = slice(start, stop)
    columns: dict[str, Any] = {
        name: getattr(targets, name)[cut]
        for name in Targets.__slots__
        if isinstance(getattr(targets, name), torch.Tensor)
    }
    heads = {name: value[cut] for name, value in outputs.heads.items()}
    after = targets.transitions
    assert after is not None
    columns["transitions"] = Transitions(*(getattr(after, name)[cut] for name in Transitions.__slots__))
    return (
        Outputs(outputs.logprobs[cut], outputs.action_logprobs[cut], outputs.entropies[cut], heads),
        replace(targets, **columns),
    )


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_parts_add_up_to_the_loss_its_gradient_and_its_metrics(name: str) -> None:
    algorithm: Algorithm = ALGORITHMS[name]()
    assert not isinstance(algorithm, ReadsText) or not algorithm.reads_text
    generator = torch.Generator().manual_seed(0)
    logprobs = -torch.rand(6, generator=generator)
    targets = make_targets(-torch.rand(6, generator=generator), torch.randn(6, generator=generator))
    whole, in_parts = logprobs.clone().requires_grad_(), logprobs.clone().requires_grad_()
    loss, metrics = algorithm.loss(make_outputs(whole), targets)
    loss.backward()
    sums: dict[str, float] = {}
    total = 0.0
    for start, stop in ((0, 2), (2, 3), (3, 6)):
        part_loss, part_metrics = algorithm.loss(*part(make_outputs(in_parts), targets, start, stop))
        part_loss.backward()
        total += float(part_loss.detach())
        for key, metric in part_metrics.items():
            sums[key] = sums.get(key, 0.0) + float(metric)
    assert total == pytest.approx(float(loss.detach()), rel=1e-5, abs=1e-7)
    torch.testing.assert_close(in_parts.grad, whole.grad)
    assert sums == pytest.approx({key: float(metric) for key, metric in metrics.items()}, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("name", sorted(set(ALGORITHMS) - {"clone", "rejection", "ilql"}))
def test_without_an_advantage_the_policy_is_left_alone(name: str) -> None:
    logprobs = torch.tensor([-0.5, -1.0, -0.1, -2.0, -0.7, -0.2], requires_grad=True)
    targets = make_targets(logprobs.detach(), torch.zeros(6))
    loss, _ = ALGORITHMS[name]().loss(make_outputs(logprobs), targets)
    loss.backward()
    assert logprobs.grad is not None
    # Only the entropy bonus of those that have one by default moves it (here, by the definition of the outputs, up).
    bonus = 0.01 / 6 if name in ("ppo", "a2c") else 0.0
    torch.testing.assert_close(logprobs.grad, torch.full((6,), bonus))


def test_means_worked_by_hand() -> None:
    targets = make_targets(torch.zeros(6), torch.zeros(6))
    per_unit = torch.tensor([6.0, 1.0, 2.0, 3.0, 4.0, 8.0])
    assert float(targets.mean(per_unit)) == 4.0
    assert float(targets.mean_by_trajectory(per_unit)) == pytest.approx((6 + 2 + 6) / 3)
    assert float(targets.sum_by_trajectory(per_unit)) == pytest.approx((6 + 6 + 12) / 3)


def gradient_shares(algorithm: Algorithm, num_draws: torch.Tensor | None = None) -> list[float]:
    """Return how much each unit pushes, where all have advantage 1 and the policy has not moved."""
    logprobs = torch.zeros(6, requires_grad=True)
    targets = make_targets(torch.zeros(6), torch.ones(6))
    if num_draws is not None:
        targets = replace(targets, num_draws=num_draws)
    algorithm.loss(make_outputs(logprobs), targets)[0].backward()
    assert logprobs.grad is not None
    return (-logprobs.grad).tolist()


def test_what_a_unit_counts_differs_between_algorithms() -> None:
    short, long = 1 / 3, 1 / 9
    assert gradient_shares(GRPO()) == pytest.approx([short, long, long, long, 1 / 6, 1 / 6])
    assert gradient_shares(DrGRPO(max_units=4)) == pytest.approx([1 / 12] * 6)
    assert gradient_shares(RLOO()) == pytest.approx([1 / 3] * 6)
    # The ratio of a sequence is a geometric mean: of four draws, each moves it a quarter as far.
    draws = torch.tensor([1.0, 4.0, 1.0, 1.0, 1.0, 1.0])
    assert gradient_shares(GSPO(clip=0.2, clip_high=0.2), draws) == pytest.approx([1 / 6, 1 / 24, *[1 / 6] * 4])
