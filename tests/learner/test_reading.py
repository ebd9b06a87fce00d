"""Foreseeing what is read: against plain forward passes, one prompt at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from llmgym.algorithms import PPO, BehaviourCloning
from llmgym.algorithms.algorithm import ReadsText
from llmgym.learner import Learner
from llmgym.learner.evaluation import evaluate
from llmgym.learner.packing import build_pack
from llmgym.learner.reading import build_reading
from llmgym.learner.state_rows import pack_turns
from llmgym.types import Acting, Batch, Turn

Make = Callable[..., Any]


def mean_logprobs(learner: Learner, turns: tuple[Turn, ...], firsts: list[int]) -> list[float]:
    """Return the mean log-probability of every prompt from its first new token on, by a plain causal forward pass."""
    found = []
    for turn, first in zip(turns, firsts, strict=True):
        ids = torch.tensor(np.array(turn.prompt_ids, np.int64))
        with torch.no_grad():
            logits = learner.policy.logits(learner.policy.causal_model.base_model(ids[None]).last_hidden_state[0])
        logprobs = torch.log_softmax(logits[:-1], -1).gather(1, ids[1:, None])[:, 0]
        found.append(float(logprobs[first - 1 :].mean()) if first < len(ids) else 0.0)
    return found


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_text_logprobs_are_those_of_the_tokens_that_each_prompt_adds(
    kind: str, make_model: Make, make_episode: Make
) -> None:
    learner = Learner(make_model(kind))
    episodes = [make_episode(0, 3), make_episode(1, 1), make_episode(2, 4)]
    turns = tuple(turn for episode in episodes for turn in episode.turns)
    # What each prompt adds begins where the one before it in its episode ended; the first token is never predicted.
    firsts = [
        1 if number == 0 else len(episode.turns[number - 1].prompt_ids)
        for episode in episodes
        for number in range(len(episode.turns))
    ]
    rows = pack_turns(learner.policy, turns, Acting(), None)
    pack = build_pack(rows)
    reading = build_reading(rows, pack.input_ids.shape[1])
    actions = torch.tensor([turn.action for turn in turns])
    outputs = evaluate(learner.policy, pack, Acting(), actions, reading=reading)
    learner.policy.causal_model.set_attn_implementation(learner.policy.plain_attention)
    assert outputs.text_logprobs is not None
    assert outputs.text_logprobs.tolist() == pytest.approx(mean_logprobs(learner, turns, firsts), abs=1e-5)


def test_a_prompt_that_adds_nothing_counts_nothing(make_model: Make, make_turn: Make) -> None:
    learner = Learner(make_model())
    turns = (make_turn([3, 4, 5]), make_turn([3, 4, 5]), make_turn([7]))
    rows = pack_turns(learner.policy, turns, Acting(), None)
    pack = build_pack(rows)
    reading = build_reading(rows, pack.input_ids.shape[1])
    assert reading.counts.tolist() == [2, 0, 0]
    assert reading.token_ids.tolist() == [4, 5]
    outputs = evaluate(learner.policy, pack, Acting(), torch.zeros(3, dtype=torch.int64), reading=reading)
    assert outputs.text_logprobs is not None
    assert outputs.text_logprobs[1:].tolist() == [0.0, 0.0]


def test_cloning_learns_the_text_only_when_asked_to(make_model: Make, make_batch: Make) -> None:
    def text_loss(text_coef: float) -> float:
        learner = Learner(make_model(), algorithm=BehaviourCloning(4, 8, text_coef=text_coef), learning_rate=1e-2)
        batch: Batch = make_batch(10)
        for _ in range(4):
            learner.update(batch)
        learner.set_algorithm(BehaviourCloning(1, 1000, text_coef=1e-9))
        return learner.update(batch)["text_loss"]

    assert text_loss(1.0) < text_loss(0.0) - 0.5


def test_only_an_algorithm_that_asks_reads_the_text() -> None:
    assert not isinstance(PPO(), ReadsText)
    assert BehaviourCloning(text_coef=0.5).reads_text
    assert not BehaviourCloning().reads_text
