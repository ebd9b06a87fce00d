"""A slow reference: one forward pass of the Hugging Face model for every candidate, without padding or cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor


@pytest.fixture(scope="session")
def load_reference(tiny_zoo: dict[str, Path]) -> Callable[[str], Any]:
    """Load the plain transformers model of a kind."""

    def load(kind: str) -> Any:
        from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

        maker = AutoModelForSeq2SeqLM if kind == "t5" else AutoModelForCausalLM
        return maker.from_pretrained(tiny_zoo[kind]).eval()

    return load


@pytest.fixture(scope="session")
def reference_outputs() -> Callable[[Any, list[int], list[int]], tuple[Tensor, Tensor]]:
    """Return, for one context and candidate, the candidate's log-probability and the context's last hidden state."""

    def run(model: Any, context: list[int], candidate: list[int]) -> tuple[Tensor, Tensor]:
        if model.config.is_encoder_decoder:
            decoder = torch.tensor([[model.config.decoder_start_token_id, *candidate]])
            outputs = model(
                input_ids=torch.tensor([context]), decoder_input_ids=decoder, output_hidden_states=True, use_cache=False
            )
            logits, states, first = outputs.logits[0], outputs.decoder_hidden_states[-1][0], 0
        else:
            outputs = model(torch.tensor([[*context, *candidate]]), output_hidden_states=True, use_cache=False)
            logits, states, first = outputs.logits[0], outputs.hidden_states[-1][0], len(context) - 1
        logprobs = logits[first : first + len(candidate)].log_softmax(-1)
        return logprobs.gather(-1, torch.tensor(candidate, dtype=torch.long)[:, None]).sum(), states[first]

    return run
