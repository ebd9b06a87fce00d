"""What tests share: a tiny real model and, once a session, a real vLLM engine that serves it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from llmgym.engine import load_engine
from llmgym.errors import EngineError
from llmgym.text import TextEnv
from llmgym.types import Engine

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ and hasattr(os, "sched_setaffinity"):
    # Each worker has cores of its own: threads of torch that wait for each other across workers are ten times slower.
    worker, num_workers = int(os.environ["PYTEST_XDIST_WORKER"][2:]), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[worker % len(cores) :: num_workers])
os.environ.pop("COLUMNS", None)  # workers are given one, and tables are as wide as it says

WORDS = "turn left turn right go forward pick up drop toggle You see a red ball 2 steps left and 1 step forward"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a Llama of 0.1 M parameters (tied embeddings, large weights: tokens differ) and its tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from llmgym.learner.tiny import build_tokenizer

    folder = tmp_path_factory.mktemp("tiny-model")
    tokenizer = build_tokenizer([WORDS] * 3, [], 300)
    config = LlamaConfig(
        vocab_size=384,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        initializer_range=0.1,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_zoo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with random models of three kinds and one tokenizer, whose token 0 is both padding and end of sequence.

    "llama" has rotary positions, "gpt2" learned absolute ones, "t5" is an encoder-decoder with relative ones.
    """
    import torch
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
        T5Config,
        T5ForConditionalGeneration,
    )

    from llmgym.learner.tiny import build_tokenizer

    tokenizer = build_tokenizer([WORDS] * 3, [], 300)
    eos = tokenizer.eos_token_id
    common: dict[str, Any] = {"vocab_size": 320, "bos_token_id": eos, "eos_token_id": eos, "pad_token_id": eos}
    llama = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_key_value_heads": 2}
    gpt2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}
    t5 = {"d_model": 64, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": eos}
    makers: dict[str, Any] = {
        "llama": lambda: LlamaForCausalLM(
            LlamaConfig(**common, **llama, num_attention_heads=4, max_position_embeddings=64, initializer_range=0.2)
        ),
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**common, **gpt2, initializer_range=0.2)),
        "t5": lambda: T5ForConditionalGeneration(T5Config(**common, **t5, initializer_factor=1.0)),
    }
    folders = {}
    for kind, make in makers.items():
        folders[kind] = tmp_path_factory.mktemp(f"tiny-{kind}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            make().save_pretrained(folders[kind])
        tokenizer.save_pretrained(folders[kind])
    return folders


@pytest.fixture(scope="session")
def shared_vllm_engine(tiny_model: Path) -> Iterator[Engine]:
    """The vLLM engine of the session; tests take `vllm_engine`, which gives it back as it was."""
    with load_engine(str(tiny_model), max_context_tokens=512, max_batch_tokens=2048) as engine:
        yield engine


@pytest.fixture
def vllm_engine(shared_vllm_engine: Engine, tiny_model: Path) -> Iterator[Engine]:
    """The session's vLLM engine on the tiny model; weights that a test swapped in are swapped out again."""
    yield shared_vllm_engine
    if shared_vllm_engine.version != 0:
        from safetensors.torch import load_file

        shared_vllm_engine.load_weights(load_file(tiny_model / "model.safetensors").items(), 0)


@pytest.fixture(scope="session")
def adapter_engine(tiny_model: Path) -> Iterator[Engine]:
    """A vLLM engine with room for adapters. Its version goes on from test to test."""
    with load_engine(
        str(tiny_model), max_context_tokens=512, max_batch_tokens=2048, max_lora_rank=8, num_adapters=2
    ) as engine:
        yield engine


@pytest.fixture(scope="session")
def shared_reference_engine(tiny_model: Path) -> Iterator[Engine]:
    """The transformers engine of the session; tests take `reference_engine`, which gives it back as it was."""
    with load_engine(str(tiny_model), backend="transformers") as engine:
        yield engine


@pytest.fixture
def reference_engine(shared_reference_engine: Engine, tiny_model: Path) -> Iterator[Engine]:
    """The transformers engine on the same model; what a test swapped in is swapped out again."""
    from safetensors.torch import load_file

    yield shared_reference_engine
    with contextlib.suppress(EngineError):
        shared_reference_engine.drop_adapter("policy")
    shared_reference_engine.load_weights(load_file(tiny_model / "model.safetensors").items(), 0)


class Line(gym.Env[int, int]):
    """A walk to the right end of a line whose length is drawn from the seed; six steps at most."""

    observation_space = gym.spaces.Discrete(100)
    action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.goal = int(self.np_random.integers(2, 5))
        self.place = self.steps = 0
        return self.place, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        self.place += int(action) - 1
        self.steps += 1
        done = self.place == self.goal
        return self.place, float(done), done, self.steps >= 6 and not done, {}


def legal_moves(place: int) -> dict[str, int]:
    """At the left end of the line there is no way back."""
    moves = {"stay": 1, "walk": 2}
    return {**moves, "go back": 0} if place > 0 else {**moves, "walk on, whistling": 2}


@pytest.fixture
def make_text_env() -> Callable[[], gym.Env[Any, Any]]:
    """Make a small text environment whose actions change with its state."""
    return lambda: TextEnv(Line(), describe=lambda place: f"at {place}", actions=legal_moves, mission="walk")
