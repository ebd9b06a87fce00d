"""Micro-batches: however few rows are computed at once, a step has the gradient of all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from llmgym.algorithms import DAPO, GRPO, GSPO, PPO, RLOO, BehaviourCloning, DrGRPO
from llmgym.algorithms.algorithm import Algorithm, credit_of, wants_reference
from llmgym.learner import Learner, LoraSettings
from llmgym.learner.gradient import Gradients
from llmgym.learner.minibatch import units_of
from llmgym.learner.optimizer import learned_parameters
from llmgym.learner.reference import Reference
from llmgym.learner.row import group_rows
from llmgym.learner.state_rows import pack_turns
from llmgym.learner.update import Update, run_update
from llmgym.types import Acting, Batch

Make = Callable[..., Any]
ACTING = Acting("reason", cue=" ")
"""Turns have free tokens of several lengths, and so several draws."""
ALGORITHMS: dict[str, Algorithm] = {
    "ppo": PPO(value_coef=0.5, epochs=1, minibatch_turns=1000),
    "ppo by draw": PPO(credit="draw", reference_coef=0.1, epochs=1, minibatch_turns=1000),
    "grpo": GRPO(reference_coef=0.1, minibatch_turns=1000),
    "dapo": DAPO(minibatch_turns=1000),
    "dr_grpo": DrGRPO(minibatch_turns=1000),
    "gspo": GSPO(minibatch_turns=1000),
    "rloo": RLOO(minibatch_turns=1000),
    "clone": BehaviourCloning(1, 1000, value_coef=0.5, text_coef=0.7),
}


def ragged_batch(make_batch: Make, algorithm: Algorithm) -> Batch:
    """Return episodes of one to four turns, whose thoughts have up to three tokens."""
    rng = np.random.default_rng(1)
    turns = []
    for turn in make_batch(9).turns:
        said = tuple(int(token) for token in rng.integers(2, 64, size=int(rng.integers(0, 4))))
        draws = tuple(float(one) for one in -rng.random(len(said) + 1) * 3)
        turns.append(replace(turn, sampled_ids=said, cue_ids=(3,), logprob=sum(draws), draw_logprobs=draws))
    num_units = int(units_of(turns, credit_of(algorithm)).sum())
    advantages, returns = rng.normal(size=(2, num_units)).astype(np.float32)
    lengths = tuple(1 + number % 4 for number in range(9))
    return Batch(tuple(turns), advantages, returns, np.zeros(num_units, np.float32), trajectory_turns=lengths)


def gradients(
    make_model: Make, batch: Batch, algorithm: Algorithm, lora: LoraSettings | None, max_tokens: int, seed: int
) -> tuple[Tensor, int]:
    """Return the gradient of the one step of an update, and in how many parts it was computed."""
    learner = Learner(make_model(), lora=lora, algorithm=algorithm, acting=ACTING)
    # In float32 a pass over other rows rounds otherwise, by up to 2e-6 here: that would hide what is summed wrongly.
    learner.policy.model.double()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in learned_parameters(learner.policy).items():
            if "lora_B" in name or "outer" in name:  # these are 0 at the start, and hide what is before them
                parameter.normal_(std=0.1)
    kept: list[Tensor] = []

    class Keeps(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            kept.append(torch.cat([p.grad.flatten() for p in self.param_groups[0]["params"] if p.grad is not None]))

    optimizer = Keeps(learned_parameters(learner.policy).values(), lr=0.0)
    rows = pack_turns(learner.policy, batch.turns, ACTING, None)
    run_update(
        Gradients(learner.policy),
        optimizer,
        rows,
        batch,
        update=Update(algorithm, ACTING, max_tokens, None),
        rng=np.random.default_rng(seed),
        reference=Reference(learner.policy) if wants_reference(algorithm) else None,
    )
    (gradient,) = kept
    return gradient, len(list(group_rows(rows, max_tokens)))


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2)], ids=["all weights", "adapter"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_gradients_are_the_same_for_any_micro_batch_size_and_order(
    name: str, lora: LoraSettings | None, make_model: Make, make_batch: Make
) -> None:
    algorithm = ALGORITHMS[name]
    batch = ragged_batch(make_batch, algorithm)
    # Without a limit rows are grouped as is cheapest, here in two parts.
    whole, least_parts = gradients(make_model, batch, algorithm, lora, 10**6, 0)
    assert float(whole.norm()) > 1e-3
    num_parts = []
    for max_tokens in (1, 60, 120):
        parts, number = gradients(make_model, batch, algorithm, lora, max_tokens, seed=max_tokens)
        num_parts.append(number)
        assert float((parts - whole).norm() / whole.norm()) < 1e-6
    assert num_parts[0] == len(batch.turns)
    assert num_parts[0] > num_parts[1] > num_parts[2] > least_parts
