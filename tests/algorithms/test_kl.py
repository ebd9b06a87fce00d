"""Estimates of a divergence on a categorical distribution, where it is known."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from llmgym.algorithms.kl import k1, k2, k3

P_LOGITS = torch.tensor([1.0, 0.2, -0.5, 0.0])
Q = torch.log_softmax(torch.tensor([0.4, 0.4, 0.1, -0.6]), -1)


def divergence(p: Tensor, q: Tensor) -> Tensor:
    return (p.exp() * (p - q)).sum()


@pytest.mark.parametrize("estimate", [k1, k3])
def test_the_mean_is_the_divergence(estimate: Callable[[Tensor], Tensor]) -> None:
    p = torch.log_softmax(P_LOGITS, -1)
    mean = (p.exp() * estimate(p - Q)).sum()
    torch.testing.assert_close(mean, divergence(p, Q))


def test_two_of_them_are_never_below_zero() -> None:
    log_ratio = torch.linspace(-3, 3, 61)
    assert float(k2(log_ratio).min()) >= 0
    assert float(k3(log_ratio).min()) >= 0
    assert float(k1(log_ratio).min()) < 0


def mean_gradient(estimate: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the expected gradient of an estimate as a loss, with the draws held fixed."""
    logits = P_LOGITS.clone().requires_grad_()
    p = torch.log_softmax(logits, -1)
    (p.detach().exp() * estimate(p - Q)).sum().backward()
    assert logits.grad is not None
    return logits.grad


def exact_gradient(is_reverse: bool) -> Tensor:
    logits = P_LOGITS.clone().requires_grad_()
    p = torch.log_softmax(logits, -1)
    (divergence(p, Q) if is_reverse else divergence(Q, p)).backward()
    assert logits.grad is not None
    return logits.grad


def test_as_losses_they_point_to_different_places() -> None:
    torch.testing.assert_close(mean_gradient(k1), torch.zeros(4), atol=1e-7, rtol=0)
    torch.testing.assert_close(mean_gradient(k2), exact_gradient(is_reverse=True))
    torch.testing.assert_close(mean_gradient(k3), exact_gradient(is_reverse=False))


def test_means_of_draws_are_the_divergence_within_three_standard_errors() -> None:
    p, num_draws = torch.log_softmax(P_LOGITS, -1), 100_000
    drawn = torch.multinomial(p.exp(), num_draws, replacement=True, generator=torch.Generator().manual_seed(0))
    log_ratio, exact = (p - Q)[drawn].double(), float(divergence(p, Q))
    deviations = {}
    for estimate in (k1, k2, k3):
        found = estimate(log_ratio)
        deviations[estimate] = float(found.std())
        error = abs(float(found.mean()) - exact)
        is_unbiased = error < 3 * deviations[estimate] / num_draws**0.5
        assert is_unbiased == (estimate is not k2)
        assert error < 0.1 * exact, "near to each other, the bias of k2 is small"
    assert deviations[k1] > 2 * max(deviations[k2], deviations[k3])


def test_as_a_reward_k1_has_the_gradient_that_k2_has_as_a_loss() -> None:
    logits = P_LOGITS.clone().requires_grad_()
    p = torch.log_softmax(logits, -1)
    # The expected gradient of a policy whose reward is -k1: every draw's log-probability, weighted by k1 held fixed.
    (p.detach().exp() * k1(p - Q).detach() * p).sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, mean_gradient(k2))
    assert float((logits.grad - mean_gradient(k3)).abs().max()) > 0.01
