"""Two worker processes that share a model, on a CPU, against plain forward passes."""

from __future__ import annotations

import copy
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from llmgym.engine import load_engine
from llmgym.types import Engine

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model).eval()


@pytest.fixture(scope="module")
def parallel_engine(tiny_model: Path) -> Iterator[Engine]:
    with load_engine(
        str(tiny_model),
        max_context_tokens=512,
        max_batch_tokens=2048,
        kv_cache_gib=0.1,
        max_lora_rank=8,
        tensor_parallel_size=2,
    ) as engine:
        yield engine


def workers() -> list[psutil.Process]:
    """Return vLLM's worker processes that this one has started."""
    return [child for child in psutil.Process().children(recursive=True) if "Worker_TP" in child.name()]


def brute_force(model: Any, contexts: list[list[int]], candidates: list[list[list[int]]]) -> list[np.ndarray]:
    """Log-probability of every candidate, each from one forward pass."""
    scores = []
    for context, options in zip(contexts, candidates, strict=True):
        row = []
        for option in options:
            with torch.inference_mode():
                logprobs = model(torch.tensor([[*context, *option]])).logits[0].float().log_softmax(-1)
            row.append(sum(logprobs[len(context) - 1 + i, token].item() for i, token in enumerate(option)))
        scores.append(np.array(row, dtype=np.float32))
    return scores


def cases() -> tuple[list[list[int]], list[list[list[int]]]]:
    """Contexts around the block size of 32, which end in tails of all kinds; candidates short and long."""
    generator = random.Random(0)

    def ids(length: int) -> list[int]:
        return [generator.randrange(3, 300) for _ in range(length)]

    contexts = [ids(length) for length in (1, 20, 32, 45, 100)]
    return contexts, [[ids(1), ids(3), ids(3), ids(9)] for _ in contexts]


def assert_agrees(engine: Engine, model: Any) -> None:
    """Score twice (the second time from the cache and the kept tails), then one turn on, and compare."""
    contexts, candidates = cases()
    for _ in range(2):
        for found, expected in zip(
            engine.score(contexts, candidates), brute_force(model, contexts, candidates), strict=True
        ):
            np.testing.assert_allclose(found, expected, atol=TOLERANCE)
    longer = [[*context, 7, 8, 9] for context in contexts]
    for found, expected in zip(engine.score(longer, candidates), brute_force(model, longer, candidates), strict=True):
        np.testing.assert_allclose(found, expected, atol=TOLERANCE)


def shaken(model: Any, seed: int, name_part: str) -> Any:
    """Return a copy with noise on the weights whose names have a part."""
    changed = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in changed.named_parameters():
            if name_part in name:
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)
    return changed


def test_two_workers_score_like_one_forward_pass(parallel_engine: Engine, model: Any) -> None:
    assert len(workers()) == 2
    assert_agrees(parallel_engine, model)


def test_the_next_turn_computes_only_what_it_adds(parallel_engine: Any) -> None:
    scheduler = parallel_engine.backend.llm.llm_engine.engine_core.engine_core.scheduler
    schedule, counts = scheduler.schedule, []

    def counted(*args: Any, **kwargs: Any) -> Any:
        output = schedule(*args, **kwargs)
        counts.append(output.total_num_scheduled_tokens)
        return output

    context = [random.Random(5).randrange(3, 300) for _ in range(50)]
    parallel_engine.score([context], [[[5], [6]]])
    scheduler.schedule = counted
    try:
        parallel_engine.score([[*context, 8, 9, 10]], [[[5], [6]]])
    finally:
        scheduler.schedule = schedule
    assert sum(counts) == 3, "both workers kept the tail of 18 tokens"


def test_workers_generate_what_the_model_would(parallel_engine: Engine, model: Any) -> None:
    (answers,) = parallel_engine.generate(["You see a"], 6, temperature=0.7, n=2, seed=5)
    context = parallel_engine.tokenizer.encode("You see a", add_special_tokens=False)
    for answer in answers:
        with torch.inference_mode():
            logits = model(torch.tensor([[*context, *answer.token_ids]])).logits[0].float() / 0.7
        logprobs = logits.log_softmax(-1)[len(context) - 1 :]
        expected = [logprobs[i, token].item() for i, token in enumerate(answer.token_ids)]
        np.testing.assert_allclose(answer.logprobs, expected, atol=TOLERANCE)


def test_workers_choose_among_constrained_candidates(parallel_engine: Engine) -> None:
    options = [[" go", " go forward", " drop"]] * 20
    choices = parallel_engine.choose(["You see"] * 20, options, how="constrained", seed=0, temperature=2.0)
    assert {choice.index for choice in choices} == {0, 1, 2}


def test_both_workers_take_new_weights_with_tied_embeddings(parallel_engine: Engine, model: Any) -> None:
    changed = shaken(model, 1, "")
    parallel_engine.load_weights(changed.named_parameters(), 7)
    assert_agrees(parallel_engine, changed)
    parallel_engine.load_weights(model.named_parameters(), 8)
    assert_agrees(parallel_engine, model)


def test_both_workers_take_an_adapter(parallel_engine: Engine, model: Any, tmp_path: Path) -> None:
    import peft

    config = peft.LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj", "o_proj", "down_proj"])
    adapted = shaken(peft.get_peft_model(copy.deepcopy(model), config).eval(), 2, "lora_")
    adapted.save_pretrained(tmp_path)
    parallel_engine.load_adapter(str(tmp_path), 9)
    assert_agrees(parallel_engine, adapted)


def test_no_worker_is_left_after_close(parallel_engine: Engine) -> None:
    """Last, as it closes the engine of this module."""
    before = workers()
    parallel_engine.close()
    _, alive = psutil.wait_procs(before, timeout=20)
    assert before
    assert not alive
    assert "VLLM_CPU_OMP_THREADS_BIND" not in os.environ
