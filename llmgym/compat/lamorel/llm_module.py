"""The module a script holds in its hand: the transformers model and the module functions, under Lamorel's names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from llmgym.host.adapters import activate_adapter
from llmgym.host.forward import PassResult, run_pass
from llmgym.host.generation import Sampled, sample
from llmgym.host.inputs import Candidates, InputSettings, PassOptions, PassRequest

__all__ = ["LlmModule"]


class LlmModule(nn.Module):
    """A language model with its module functions.

    An initialiser may put another model in the place of `_LLM_model`; names of weights begin with ``_LLM_model.`` and
    ``_module_functions.``.

    Attributes:
        model_type: "causal" or "seq2seq".
        pad_token: the token id that rows are filled up with.
        device: "cpu" or a torch device.
    """

    def __init__(self, model: Any, inputs: InputSettings, functions: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.inputs = inputs
        self.model_type = "seq2seq" if inputs.is_encoder_decoder else "causal"
        self.pad_token = inputs.pad_token_id
        self.device: torch.device | str = "cpu" if inputs.device.type == "cpu" else inputs.device
        self.main_device = self.device
        self._LLM_model = model
        self._LLM_tokenizer = inputs.tokenizer
        self._module_functions = nn.ModuleDict(functions)

    def get_model_config(self) -> Any:
        """Return the transformers config of the model."""
        return self._LLM_model.config

    def get_trainable_module(self) -> Any:
        """Return the transformers model."""
        return self._LLM_model

    def forward(
        self,
        module_function_keys: Sequence[str],
        contexts: Sequence[Any],
        candidates: Candidates | None = None,
        require_grad: bool = False,
        minibatch_size: int | None = None,
        add_eos_on_candidates: bool = False,
        peft_adapter: str | None = None,
        pad_contexts: bool = True,
        forced_context_len: int | None = None,
        forced_sequence_len: int | None = None,
        **kwargs: Any,
    ) -> list[PassResult]:
        """Run module functions, with gradients if required; the arguments are those of `Caller.custom_module_fns`.

        Raises:
            HostError: the request does not make sense.
            PromptError: a context does not fit into the model.
        """
        options = PassOptions(
            minibatch_size=minibatch_size,
            add_eos=add_eos_on_candidates,
            pad_contexts=pad_contexts,
            context_length=forced_context_len,
            sequence_length=forced_sequence_len,
            allow_empty=True,
            named=kwargs,
        )
        activate_adapter(self._LLM_model, peft_adapter)
        functions: Any = self._module_functions
        request = PassRequest(tuple(module_function_keys), contexts, candidates or None, options, require_grad)
        return run_pass(self._LLM_model, dict(functions.items()), self.inputs, request)

    def generate(
        self, contexts: Sequence[Any], return_logprobs: bool = False, peft_adapter: str | None = None, **kwargs: Any
    ) -> list[list[dict[str, Any]]]:
        """Generate texts; the arguments are those of `Caller.generate`.

        Raises:
            HostError: the request does not make sense.
            PromptError: a context does not fit into the model.
        """
        activate_adapter(self._LLM_model, peft_adapter)
        found = sample(self._LLM_model, self.inputs, contexts, kwargs)
        return [[_described(answer, return_logprobs) for answer in answers] for answers in found]


def _described(answer: Sampled, with_logprobs: bool) -> dict[str, Any]:
    """Describe an answer as Lamorel does."""
    logprobs = answer.logprobs
    total = np.asarray(logprobs.sum(dtype=np.float64), np.float32)
    described: dict[str, Any] = {"text": answer.text, "tokens": torch.tensor(answer.token_ids)}
    if with_logprobs:
        described |= {"text_logprob": total, "tokens_logprob": logprobs}
    else:
        described |= {"text_probability": np.exp(total), "tokens_probability": np.exp(logprobs)}
    if answer.beam_score is not None:
        described["beam_score"] = answer.beam_score
    return described
