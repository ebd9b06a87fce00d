"""ILQL's losses against numbers worked by hand."""

import math
from dataclasses import replace

import pytest
import torch

from llmgym.algorithms import ILQL, Outputs, Targets, Transitions
from llmgym.algorithms.algorithm import needs_values
from llmgym.algorithms.ilql import conservative_loss, expectile_loss, td_loss
from llmgym.errors import LearnerError

QUIET = ILQL(cql_scale=0.0, awac_scale=0.0)
"""Only the losses of Q and V."""


def chain(algorithm: ILQL, q: torch.Tensor, values: torch.Tensor) -> tuple[Outputs, Targets]:
    """Return two turns of a chain s0 -> s1 -> the end, reward 1 at its end, discount 0.5, and what heads say of them.

    Args:
        q: float32 (2, 2); of both states' candidates; the first is taken in both.
        values: float32 (2,); V of both.
    """
    ones, zeros = torch.ones(2), torch.zeros(2)
    logprobs = torch.log(torch.tensor([[0.25, 0.75], [0.5, 0.5]])).requires_grad_()
    heads = {"value": values, **dict.fromkeys([*algorithm.qs, *algorithm.target_heads], q)}
    outputs = Outputs(logprobs[:, 0], logprobs, zeros, heads)
    after = Transitions(
        torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.0]), torch.stack([values[1].detach(), zeros[0]]), ones > 0
    )
    actions = torch.zeros(2, dtype=torch.int64)
    return outputs, Targets(actions, zeros, zeros, zeros, zeros, zeros, 2, ones, ones * 2, 1.0, transitions=after)


def test_td_targets_of_a_chain_of_two_states() -> None:
    q, values = torch.tensor([[0.3, 9.0], [0.8, 9.0]]), torch.tensor([0.1, 0.6])
    outputs, targets = chain(QUIET, q, values)
    assert targets.transitions is not None
    # Q(s0) towards 0 + 0.5 * 0.6, Q(s1) towards 1 and nothing behind it.
    losses = td_loss(torch.tensor([0.3, 0.8]), targets.transitions)
    torch.testing.assert_close(losses, torch.tensor([0.0, 0.04]))
    loss, metrics = QUIET.loss(outputs, targets)
    assert float(metrics["td_loss"]) == pytest.approx(2 * 0.04 / 2), "both Qs are the same here"
    # V(s0) is 0.2 and V(s1) 0.2 below the smaller target Q: 0.7 * 0.04 each.
    assert float(metrics["value_loss"]) == pytest.approx(0.7 * 0.04)
    assert float(loss.detach()) == pytest.approx(0.04 + 0.028)
    assert float(metrics["q"]) == pytest.approx(0.55)
    assert float(metrics["v"]) == pytest.approx(0.35)


def test_a_state_after_that_nobody_knows_is_left_out() -> None:
    unknown = Transitions(torch.ones(2), torch.zeros(2), torch.zeros(2), torch.tensor([True, False]))
    assert td_loss(torch.tensor([3.0, 3.0]), unknown).tolist() == [4.0, 0.0]


def test_the_value_of_the_state_after_is_no_way_for_a_gradient() -> None:
    values = torch.tensor([0.1, 0.6], requires_grad=True)
    outputs, targets = chain(QUIET, torch.zeros(2, 2), values)
    assert targets.transitions is not None
    assert not targets.transitions.next_values.requires_grad
    QUIET.loss(outputs, targets)[0].backward()
    # Both are above Q = 0: 0.3 * V^2, a mean over two.
    assert values.grad is not None
    torch.testing.assert_close(values.grad, 0.3 * values.detach())


def test_the_expectile_at_a_half_is_half_the_squared_error() -> None:
    differences = torch.tensor([-2.0, -0.5, 0.0, 1.0, 3.0])
    torch.testing.assert_close(expectile_loss(differences, 0.5), 0.5 * differences.square())
    torch.testing.assert_close(expectile_loss(differences, 0.9), torch.tensor([0.4, 0.025, 0.0, 0.9, 8.1]))


def test_a_high_expectile_finds_the_best_of_what_was_done() -> None:
    samples, value = torch.tensor([0.0, 0.0, 0.0, 1.0]), torch.zeros(1, requires_grad=True)
    for _ in range(3000):
        loss = expectile_loss(samples - value, 0.99).mean()
        (gradient,) = torch.autograd.grad(loss, value)
        value = (value - 0.1 * gradient).detach().requires_grad_()
    assert float(value.detach()) == pytest.approx(0.99 / (0.99 + 3 * 0.01), abs=1e-3)


def test_conservative_loss_is_the_cross_entropy_of_q_among_a_turns_own_candidates() -> None:
    q = torch.tensor([[0.0, math.log(3.0), -torch.inf]], requires_grad=True)
    loss = conservative_loss(q, torch.tensor([0]))
    assert float(loss.detach()) == pytest.approx(math.log(4.0))
    loss.sum().backward()
    assert q.grad is not None
    torch.testing.assert_close(q.grad, torch.tensor([[-0.75, 0.75, 0.0]]))


def test_imitation_without_a_beta_is_the_plain_cross_entropy() -> None:
    algorithm = ILQL(cql_scale=0.0)
    outputs, targets = chain(algorithm, torch.ones(2, 2), torch.zeros(2))
    _, metrics = algorithm.loss(outputs, targets)
    plain = (math.log(4.0) + math.log(2.0)) / 2
    assert float(metrics["awac_loss"]) == pytest.approx(plain)
    weighted = replace(algorithm, awac_beta=2.0)
    assert float(weighted.loss(outputs, targets)[1]["awac_loss"]) == pytest.approx(plain * math.exp(2.0))


def test_neither_targets_nor_weights_are_moved_by_a_gradient() -> None:
    algorithm = ILQL(awac_beta=1.0)
    q = torch.tensor([[0.3, 0.1], [0.8, 0.1]])
    outputs, targets = chain(algorithm, q, torch.zeros(2))
    aims = {name: q.clone().requires_grad_() for name in algorithm.target_heads}
    outputs = replace(outputs, heads={**outputs.heads, **aims})
    algorithm.loss(outputs, targets)[0].backward()
    assert all(aim.grad is None for aim in aims.values())


def test_guidance_is_the_smaller_target_q_above_the_state() -> None:
    low, high = torch.tensor([[0.2, 1.0, -torch.inf]]), torch.tensor([[0.5, 0.7, -torch.inf]])
    heads = {"value": torch.tensor([0.1]), "target_q1": low, "target_q2": high, "q1": high, "q2": high}
    torch.testing.assert_close(ILQL().guidance(heads), torch.tensor([[0.1, 0.6, -torch.inf]]))
    torch.testing.assert_close(ILQL(two_qs=False).guidance(heads), torch.tensor([[0.1, 0.9, -torch.inf]]))


def test_one_q_or_two_are_named() -> None:
    assert dict(ILQL().heads) == {"value": "state", "q1": "candidates", "q2": "candidates"}
    assert dict(ILQL().target_heads) == {"target_q1": "q1", "target_q2": "q2"}
    assert dict(ILQL(two_qs=False).target_heads) == {"target_q1": "q1"}
    assert not needs_values(ILQL())


def test_what_cannot_be_learned_from_is_refused() -> None:
    outputs, targets = chain(QUIET, torch.zeros(2, 2), torch.zeros(2))
    with pytest.raises(LearnerError, match="Expected a batch that says what followed every turn, got one that does"):
        QUIET.loss(outputs, replace(targets, transitions=None))
    empty = {name: torch.zeros(2, 0) for name in ("q1", "q2", "target_q1", "target_q2")}
    with pytest.raises(
        LearnerError, match=r"candidates to tell the worth of, got free text\. Set acting\.how to score"
    ):
        QUIET.loss(replace(outputs, heads={**outputs.heads, **empty}), targets)
    with pytest.raises(LearnerError, match=r"Expected tau above 0 and below 1, got 1\.0\. Set 0\.7"):
        ILQL(tau=1.0)
    with pytest.raises(LearnerError, match=r"alpha above 0 to 1 and sync_every of at least 1, got 0\.5 and 0\."):
        ILQL(alpha=0.5, sync_every=0)
    with pytest.raises(LearnerError, match=r"scales and betas of at least 0, got .* beta=-1\.0\. Change them\."):
        ILQL(beta=-1.0)
