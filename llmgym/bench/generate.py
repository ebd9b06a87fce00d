"""How fast text is generated, beside vLLM itself on the same prompts: what llmgym's own layers cost.

vLLM is asked twice: for the same answers (a seed a prompt, and the log-probability of every token, which a learner
needs), and for text alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from llmgym.bench.models import measure_models
from llmgym.bench.report import Report, best_seconds, make_report
from llmgym.engine import load_engine
from llmgym.engine.vllm_backend import VLLMBackend
from llmgym.types import TokenIds

__all__ = ["Workload", "run"]


@dataclass(frozen=True, slots=True)
class Workload:
    """How much is measured.

    Attributes:
        models: names of the models.
        num_prompts: prompts answered at once.
        prompt_tokens: tokens of each.
        new_tokens: tokens of each answer; nothing ends one earlier.
        repeats: how often each time is taken; the least counts.
    """

    models: tuple[str, ...] = ("smollm2", "tiny")
    num_prompts: int = 32
    prompt_tokens: int = 100
    new_tokens: int = 32
    repeats: int = 3


def run(workload: Workload | None = None) -> Report:
    """Measure, and return tokens a second and ratios.

    Args:
        workload: how much; the default takes about three minutes on two cores.
    """
    work = workload or Workload()
    return make_report(measure_models(work.models, lambda model: _measure_model(model, work)))


def _measure_model(model: str, work: Workload) -> dict[str, float]:
    """Let llmgym and vLLM take turns on one engine."""
    with load_engine(model, max_context_tokens=512, max_batch_tokens=4096) as engine:
        backend = getattr(engine, "backend", None)
        assert isinstance(backend, VLLMBackend), "the engine was loaded with vLLM"
        rng = np.random.default_rng(0)
        vocab_size = len(engine.tokenizer)
        prompts = [tuple(rng.integers(3, vocab_size, work.prompt_tokens).tolist()) for _ in range(work.num_prompts)]
        num_tokens: list[int] = []

        def ours() -> None:
            answers = engine.generate(prompts, work.new_tokens, seed=0)
            num_tokens.append(sum(len(one.token_ids) for answer in answers for one in answer))

        ways = [ours, lambda: _vllm(backend.llm, prompts, work, same=True), lambda: _vllm(backend.llm, prompts, work)]
        seconds = best_seconds(*ways, repeats=work.repeats)
    return {
        "tokens_per_second": num_tokens[-1] / seconds[0],
        "vllm_same_answers_over_ours": seconds[1] / seconds[0],
        "vllm_text_alone_over_ours": seconds[2] / seconds[0],
    }


def _vllm(llm: Any, prompts: list[TokenIds], work: Workload, *, same: bool = False) -> None:
    """Generate with vLLM's own entry point."""
    from vllm import SamplingParams, TokensPrompt

    parameters = [
        SamplingParams(max_tokens=work.new_tokens, seed=number if same else None, logprobs=0 if same else None)
        for number in range(len(prompts))
    ]
    llm.generate([TokensPrompt(prompt_token_ids=list(ids)) for ids in prompts], parameters, use_tqdm=False)
