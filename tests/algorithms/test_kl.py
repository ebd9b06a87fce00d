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
