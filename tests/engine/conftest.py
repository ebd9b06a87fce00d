"""What tests of engines share: plain forward passes to compare with, one row at a time."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmgym.engine import load_engine
from llmgym.types import Engine

Model = Any
BruteForce = Callable[..., np.ndarray]
"""Model, context and answer (token ids), and a temperature, to the log-probability of each token of the answer."""


def load_plain(folder: Path) -> Model:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    is_t5 = AutoConfig.from_pretrained(folder).is_encoder_decoder
    return (AutoModelForSeq2SeqLM if is_t5 else AutoModelForCausalLM).from_pretrained(folder).eval()


@torch.inference_mode()
def forward_pass(model: Model, context: list[int], answer: list[int], temperature: float = 1.0) -> np.ndarray:
    """Return float32 (len(answer),), from one pass over a context and an answer, without padding or cache."""
    if model.config.is_encoder_decoder:
        start = model.config.decoder_start_token_id
        logits = model(torch.tensor([context]), decoder_input_ids=torch.tensor([[start, *answer]])).logits[0]
    else:
        logits = model(torch.tensor([[*context, *answer]])).logits[0, len(context) - 1 :]
    logprobs = (logits[:-1] / temperature).log_softmax(-1)
    return logprobs.gather(1, torch.tensor(answer)[:, None])[:, 0].numpy()


def mixed_cases(seed: int = 0) -> tuple[list[list[int]], list[list[list[int]]]]:
    """Contexts of mixed lengths, one going on from another; candidates nested, doubled, of one token, and long."""
    generator = random.Random(seed)

    def draw(length: int) -> list[int]:
        return [generator.randrange(1, 300) for _ in range(length)]

    contexts = [draw(length) for length in (1, 17, 5, 31, 2, 17)]
    contexts += [contexts[1] + draw(4), contexts[1]]
    candidates = []
    for _ in contexts:
        stem = draw(3)
        candidates.append([draw(1), stem, stem + draw(4), stem, draw(1), draw(12), draw(2)])
    return contexts, candidates


@pytest.fixture(scope="session")
def brute_force() -> BruteForce:
    """Score an answer by one plain forward pass."""
    return forward_pass


@pytest.fixture(scope="session")
def cases() -> Callable[..., tuple[list[list[int]], list[list[list[int]]]]]:
    """Make contexts and candidates from a seed."""
    return mixed_cases


@pytest.fixture(scope="session")
def assert_scores() -> Callable[..., None]:
    """Check an engine's scores of mixed contexts against a plain model's."""

    def check(engine: Engine, model: Model, *, tolerance: float = 1e-4, **options: Any) -> None:
        contexts, candidates = mixed_cases()
        found = engine.score(contexts, candidates, **options)
        for context, answers, scores in zip(contexts, candidates, found, strict=True):
            expected = [forward_pass(model, context, answer).sum() for answer in answers]
            np.testing.assert_allclose(scores, expected, atol=tolerance, rtol=1e-6)

    return check


@pytest.fixture(scope="module", params=["llama", "gpt2", "t5"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def plain_model(kind: str, tiny_zoo: dict[str, Path]) -> Model:
    """The plain model of a kind."""
    return load_plain(tiny_zoo[kind])


@pytest.fixture(scope="module")
def transformers_engine(kind: str, tiny_zoo: dict[str, Path]) -> Iterator[Engine]:
    """The transformers engine on the model of a kind, whose batches are small."""
    with load_engine(str(tiny_zoo[kind]), "transformers", max_batch_tokens=128) as engine:
        yield engine


@pytest.fixture
def make_adapter(tiny_zoo: dict[str, Path], tmp_path: Path) -> Callable[..., tuple[Model, str]]:
    """Make a LoRA adapter with weights drawn from a seed; return the plain model with it, and its folder."""
    from peft import LoraConfig, get_peft_model

    def make(kind: str, seed: int) -> tuple[Model, str]:
        targets = {"llama": ["q_proj", "up_proj"], "gpt2": ["c_attn"], "t5": ["q", "v"]}[kind]
        config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, fan_in_fan_out=kind == "gpt2")
        model = get_peft_model(load_plain(tiny_zoo[kind]), config)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.normal_(std=0.1)
        model.eval().save_pretrained(tmp_path / f"{kind}-{seed}")
        return model, str(tmp_path / f"{kind}-{seed}")

    return make
