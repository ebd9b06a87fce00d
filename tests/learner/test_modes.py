"""Modes and starts: training and evaluation compute the same, and a critic starts at nothing and gets better."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from llmgym.algorithms import PPO
from llmgym.learner import Learner, LoraSettings

Make = Callable[..., Any]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2), LoraSettings(rank=2, dropout=0.5)])
def test_training_mode_says_exactly_what_evaluation_mode_says(
    kind: str, lora: LoraSettings | None, make_model: Make, make_batch: Make
) -> None:
    learner = Learner(make_model(kind).train(), lora=lora, algorithm=PPO(epochs=1), learning_rate=1e-2)
    learner.update(make_batch())  # an adapter that starts at 0 would hide its dropout
    turns = make_batch(seed=1).turns
    evaluated = learner.logprobs(turns)
    learner.policy.train()
    learner.policy.model.train(False)
    np.testing.assert_array_equal(learner.logprobs(turns), evaluated)
    assert not any(module.training for module in learner.policy.modules())


def test_a_critic_starts_at_0_and_explains_more_of_a_fixed_batch(make_model: Make, make_batch: Make) -> None:
    batch = make_batch(10)
    learner = Learner(make_model(), algorithm=PPO(epochs=2, minibatch_turns=8), learning_rate=1e-4)
    learner.scale_learning_rate(0.0)
    explained = [learner.update(batch)["explained_variance"] for _ in range(40)]
    assert abs(explained[0]) < 0.2
    assert explained[10] > explained[0]
    assert explained[-1] > explained[10] + 0.1
