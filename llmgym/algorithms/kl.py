"""Estimates of a Kullback-Leibler divergence from what was drawn.

Schulman 2020, http://joschu.net/blog/kl-approx.html. All estimate KL(p || q) from draws of p, given log p - log q of
each; the means of `k1` and `k3` are the divergence itself. As losses of what learns p, with the draws held fixed, they
are not alike: the mean gradient of `k1` is 0, that of `k2` is the gradient of KL(p || q), and that of `k3` the gradient
of KL(q || p).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["k1", "k2", "k3"]


def k1(log_ratio: Tensor) -> Tensor:
    """Return log p/q: unbiased, but below 0 now and then.

    Args:
        log_ratio: float32 (B,); log p - log q of what was drawn from p.

    Returns:
        float32 (B,).
    """
    return log_ratio


def k2(log_ratio: Tensor) -> Tensor:
    """Return half the square of log p/q: never below 0, little noise, and biased.

    Args:
        log_ratio: float32 (B,); log p - log q of what was drawn from p.

    Returns:
        float32 (B,).
    """
    return 0.5 * log_ratio.square()


def k3(log_ratio: Tensor) -> Tensor:
    """Return q/p - 1 - log q/p: unbiased, and never below 0.

    Args:
        log_ratio: float32 (B,); log p - log q of what was drawn from p.

    Returns:
        float32 (B,).
    """
    return (-log_ratio).expm1() + log_ratio
