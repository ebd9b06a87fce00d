"""What tests share: a tiny real model and, once a session, a real vLLM engine that serves it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmgym.engine import load_engine
from llmgym.types import Engine

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

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
    with load_engine(str(tiny_model), max_context_tokens=512, max_batch_tokens=2048, max_lora_rank=8) as engine:
        yield engine


@pytest.fixture(scope="session")
def reference_engine(tiny_model: Path) -> Iterator[Engine]:
    """The transformers engine on the same model."""
    with load_engine(str(tiny_model), backend="transformers") as engine:
        yield engine
