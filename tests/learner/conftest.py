"""Tiny random models and turns for the learner's tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from llmgym.types import Batch, TokenIds, Trajectory, Turn

VOCAB_SIZE = 64
CANDIDATES: tuple[TokenIds, ...] = ((5, 6), (5, 7), (5, 6, 8, 9), (10,), (11, 5))
"""Nested prefixes, one token, several tokens."""


def _llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
            initializer_range=0.2,
            bos_token_id=0,
            eos_token_id=1,
        )
    )


def _gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCAB_SIZE,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=128,
            initializer_range=0.2,
            bos_token_id=0,
            eos_token_id=1,
        )
    )


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let learners take one thread: models this small gain nothing from two, and lose when other tests run beside."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def make_model() -> Callable[[str], Any]:
    """Make a random "llama" (grouped keys, rotary positions) or "gpt2" (learned positions, dropout 0.1)."""

    def make(kind: str = "llama") -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return {"llama": _llama, "gpt2": _gpt2}[kind]().eval()

    return make


@pytest.fixture
def make_turn() -> Callable[..., Turn]:
    """Make a turn from a prompt's token ids."""

    def make(
        prompt_ids: Sequence[int],
        candidate_ids: tuple[TokenIds, ...] = CANDIDATES,
        *,
        action: int = 0,
        logprob: float = -1.0,
        reward: float = 0.0,
        terminated: bool = False,
        truncated: bool = False,
    ) -> Turn:
        prompt = np.array(prompt_ids, np.int32)
        return Turn(prompt, candidate_ids, action, logprob, reward, terminated, truncated, 0)

    return make


@pytest.fixture
def make_episode(make_turn: Callable[..., Turn]) -> Callable[..., Trajectory]:
    """Make an episode whose prompts only grow, from a seed."""

    def make(seed: int, num_turns: int = 4, *, terminated: bool = True) -> Trajectory:
        rng = np.random.default_rng(seed)
        prompt = [int(token) for token in rng.integers(2, VOCAB_SIZE, size=6)]
        turns = []
        for turn in range(num_turns):
            action = int(rng.integers(len(CANDIDATES)))
            ends = terminated and turn == num_turns - 1
            turns.append(make_turn(prompt, action=action, reward=float(rng.normal()), terminated=ends))
            observation = rng.integers(2, VOCAB_SIZE, size=int(rng.integers(2, 6)))
            prompt = [*prompt, *CANDIDATES[action], *(int(token) for token in observation)]
        return Trajectory(tuple(turns), None if terminated else np.array(prompt, np.int32))

    return make


@pytest.fixture
def make_batch(make_episode: Callable[..., Trajectory]) -> Callable[..., Batch]:
    """Make a batch of episodes of several lengths with random advantages and returns."""

    def make(num_episodes: int = 6, seed: int = 0) -> Batch:
        rng = np.random.default_rng(seed)
        episodes = [make_episode(seed * 100 + number, 1 + number % 4) for number in range(num_episodes)]
        turns = tuple(turn for episode in episodes for turn in episode.turns)
        advantages, returns = rng.normal(size=(2, len(turns))).astype(np.float32)
        return Batch(turns, advantages, returns, np.zeros(len(turns), np.float32))

    return make
