"""Muon: steps along the orthogonalised momentum of a weight matrix; AdamW for everything that is none.

Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/, with the scale of Liu et al. 2025,
https://arxiv.org/abs/2502.16982, equation 4, by which AdamW's learning rates fit it.

torch has a Muon, too. It multiplies in bfloat16, which takes a CPU without instructions for it about thirty times as
long as float32 (measured), and it takes matrices only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["AdamWithMuon", "orthogonalized"]

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
LONG = 1.5
"""How many times as many columns as rows make the polynomials alone the smaller work, counted in multiplications."""
MOMENTUM = 0.95
RMS_OF_ADAM = 0.2
"""Root mean square of AdamW's usual step, at a learning rate of 1."""


class AdamWithMuon(torch.optim.AdamW):
    """AdamW in which the groups that say `"is_muon": True`, matrices all, are stepped by Muon."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take a step of every parameter that has a gradient."""
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["is_muon"]]
        try:
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group["is_muon"]:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._step_matrix(parameter, group["lr"], group["weight_decay"])
        return loss

    def _step_matrix(self, parameter: Tensor, learning_rate: float, weight_decay: float) -> None:
        """Add to the momentum, and step along it (Nesterov's way), orthogonalised."""
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        gradient = parameter.grad
        assert gradient is not None, "asked for by step"
        momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        direction = orthogonalized(gradient.lerp(momentum, MOMENTUM))
        parameter.mul_(1 - learning_rate * weight_decay)
        parameter.add_(direction, alpha=-learning_rate * RMS_OF_ADAM * max(parameter.shape) ** 0.5)


def orthogonalized(matrix: Tensor) -> Tensor:
    """Return about U V^T of a matrix U S V^T, (rows, columns): singular values between 0.5 and 1.5, and no vectors.

    The quintic Newton-Schulz iteration, in the matrix's own number format. Every step multiplies x by a polynomial of
    x x^T. Of a long matrix, the polynomials are multiplied with each other first, which are small, and with x at last.
    """
    is_tall = matrix.shape[0] > matrix.shape[1]
    x: Tensor = matrix.T if is_tall else matrix
    x = x / x.norm().clamp(min=1e-7)
    if x.shape[1] > LONG * x.shape[0]:
        x = _product_of_polynomials(x @ x.T) @ x
    else:
        for _ in range(NEWTON_SCHULZ_STEPS):
            x = _polynomial(x @ x.T) @ x
    return x.T if is_tall else x


def _product_of_polynomials(gram: Tensor) -> Tensor:
    """Return what all steps together multiply x by, of which x x^T is given, (rows, rows)."""
    product = _polynomial(gram)
    polynomial = product
    for _ in range(NEWTON_SCHULZ_STEPS - 1):
        gram = polynomial @ gram @ polynomial
        polynomial = _polynomial(gram)
        product = polynomial @ product
    return product


def _polynomial(gram: Tensor) -> Tensor:
    """Return a + b gram + c gram^2, which a step multiplies by, (rows, rows)."""
    a, b, c = NEWTON_SCHULZ
    polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
    polynomial.diagonal().add_(a)
    return polynomial
