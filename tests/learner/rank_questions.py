"""What test_group.py asks of learners in other processes: they import it from here."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
import torch

from llmgym.algorithms.algorithm import credit_of
from llmgym.learner import Learner
from llmgym.learner.minibatch import open_ledger
from llmgym.learner.ranks.worker import Seat
from llmgym.types import Batch, FloatArray


class NoisyHead(torch.nn.Module):
    """A value head whose values are not 0 at the start."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(hidden_size, 1)
        torch.nn.init.normal_(self.layer.weight, generator=torch.Generator().manual_seed(0))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.layer(hidden_states).squeeze(-1)


def gradients_of(learner: Learner, batch: Batch) -> dict[str, FloatArray]:
    """Return the gradient of a batch's loss, as one minibatch, and its metrics under "metrics"."""
    rows, algorithm = learner._reader.rows(batch.turns), learner.algorithm
    ledger = open_ledger(batch, credit_of(algorithm), learner.policy.device)
    whole = ledger.whole(np.concatenate([row.state_indices for row in rows]))
    taken = learner._gradients.take(
        rows, ledger, whole, algorithm=algorithm, acting=learner.acting, max_tokens=learner._settings.max_tokens
    )
    named = learner.policy.named_parameters()
    gradients = {name: value.grad.numpy().copy() for name, value in named if value.grad is not None}
    learner.policy.zero_grad(set_to_none=True)
    gradients["metrics"] = np.array([taken.metrics[name] for name in sorted(taken.metrics)])
    return gradients


def parameters_of(learner: Learner) -> dict[str, FloatArray]:
    return {name: value.detach().numpy().copy() for name, value in learner.policy.named_parameters()}


def spoil(learner: Learner) -> None:
    """Let the weights of rank 1 drift away."""
    if learner._reader.rank.index == 1:
        with torch.no_grad():
            next(value for value in learner.policy.parameters() if value.requires_grad).add_(1e-6)


def make_in_vain(seat: Seat, *, folder: str) -> None:
    Learner(folder, rank=seat.rank)


def process_ids(seat: Seat) -> tuple[int, int]:
    return os.getpid(), os.getppid()


def fail(seat: Seat, *, index: int, others: str) -> Any:
    """Raise an error in one rank, while the others wait for it."""
    if seat.rank.index == index:
        raise ZeroDivisionError("no head for numbers")
    if others == "wait":
        return seat.rank.gather(0)
    time.sleep(60)
