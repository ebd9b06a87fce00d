"""Configurations as Lamorel's users write them, for the tiny models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmgym.compat.lamorel import Caller


@pytest.fixture
def main_config(tiny_zoo: dict[str, Path]) -> Callable[..., dict[str, Any]]:
    """Make `lamorel_args` of the main branch, with no more keys than its own examples have."""

    def make(kind: str = "llama", **llm_args: Any) -> dict[str, Any]:
        return {
            "log_level": "info",
            "allow_subgraph_use_whith_gradient": False,
            "distributed_setup_args": {"n_rl_processes": 1, "n_llm_processes": 1},
            "accelerate_args": {"config_file": "default_config.yaml", "machine_rank": 0, "num_machines": 2},
            "llm_args": {
                "model_type": "seq2seq" if kind == "t5" else "causal",
                "model_path": str(tiny_zoo[kind]),
                "pretrained": True,
                "minibatch_size": 3,
                "pre_encode_inputs": True,
                "parallelism": {"use_gpu": False, "model_parallelism_size": 1},
                **llm_args,
            },
        }

    return make


@pytest.fixture
def v03_config(tiny_zoo: dict[str, Path]) -> Callable[..., dict[str, Any]]:
    """Make `lamorel_args` of v0.3, a model for each name."""

    def make(**kinds: str) -> dict[str, Any]:
        return {
            "log_level": "info",
            "llm_configs": {
                name: {
                    "handler": "hf_llm",
                    "constructor_kwargs": None,
                    "model_type": "seq2seq" if kind == "t5" else "causal",
                    "model_path": str(tiny_zoo[kind]),
                    "pretrained": True,
                    "minibatch_size": 3,
                    "pre_encode_inputs": False,
                    "load_in_4bit": False,
                }
                for name, kind in kinds.items()
            },
            "distributed_setup_args": {
                "backend": "gloo",
                "init_timeout": 120,
                "timeout": 1800,
                "multinode": False,
                "n_rl_processes": 1,
                "llm_processes": {
                    name: {"n_processes": 1, "devices_per_process": ["cpu"], "ddp_kwargs": None} for name in kinds
                },
            },
        }

    return make


@pytest.fixture
def by_hand(tiny_zoo: dict[str, Path]) -> Callable[[str, Any, Any], float]:
    """Return log P(candidate | context) by one plain forward pass."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    def score(kind: str, context: Any, candidate: Any) -> float:
        tokenizer = AutoTokenizer.from_pretrained(tiny_zoo[kind])
        maker = AutoModelForSeq2SeqLM if kind == "t5" else AutoModelForCausalLM
        model = maker.from_pretrained(tiny_zoo[kind]).eval()
        first, then = (
            tokenizer.encode(text, add_special_tokens=False) if isinstance(text, str) else list(text)
            for text in (context, candidate)
        )
        with torch.no_grad():
            if kind == "t5":
                decoder = torch.tensor([[0, *then]])
                logits = model(input_ids=torch.tensor([first]), decoder_input_ids=decoder).logits[0, :-1]
            else:
                logits = model(torch.tensor([[*first, *then]])).logits[0, len(first) - 1 : -1]
        return float(logits.log_softmax(-1).gather(-1, torch.tensor(then)[:, None]).sum())

    return score


@pytest.fixture
def make_caller() -> Any:
    """Make callers that are closed after the test."""
    made: list[Caller] = []

    def make(*arguments: Any, **options: Any) -> Caller:
        made.append(Caller(*arguments, **options))
        return made[-1]

    yield make
    for caller in made:
        caller.close()
