"""One model as Lamorel's scripts extend it, loaded in the process that serves it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from llmgym.compat.lamorel.config import ConfigNode
from llmgym.compat.lamorel.extensions import BaseModelInitializer, BaseModuleFunction, BaseUpdater
from llmgym.compat.lamorel.llm_module import LlmModule
from llmgym.compat.lamorel.settings import LlmSettings
from llmgym.errors import HostError
from llmgym.host.distribution import distribute, seed_process
from llmgym.host.forward import PassResult
from llmgym.host.inputs import PassRequest
from llmgym.host.loading import ModelSettings, input_settings, load_language_model, load_tokenizer
from llmgym.host.serving import GenerateRequest, Place, Shard

__all__ = ["LlmSpec"]


@dataclass(frozen=True, slots=True)
class LlmSpec:
    """A model of a `Caller`; see `llmgym.host.Servable`.

    Attributes:
        name: of the model.
        settings: from the configuration.
        is_v03: whether hooks are handed what v0.3 hands them.
        first_rank: number that Lamorel's launcher would give the model's first process.
        functions: key to module function.
        initializer: changes the model, or None.
        updater: updates it, or None.
    """

    name: str
    settings: LlmSettings
    is_v03: bool
    first_rank: int
    functions: Mapping[str, BaseModuleFunction]
    initializer: BaseModelInitializer | None
    updater: BaseUpdater | None

    def serve(self, place: Place) -> ServedLlm:
        """Load the model, and let the script's hooks at it in Lamorel's order."""
        settings = self._model_settings()
        tokenizer = load_tokenizer(settings)
        with torch.random.fork_rng(devices=[]):
            # One seed in every process: without an updater to keep them equal, heads start and stay the same.
            torch.manual_seed(settings.seed)
            model = load_language_model(settings, place.devices)
            module = LlmModule(model, input_settings(settings, model, tokenizer), self.functions)
            for function in self.functions.values():
                function.device = module.device
                self._introduce(function, module, place)
                function.initialize()
            if self.initializer is not None:
                self._introduce(self.initializer, module, place)
                module = self._initialized(self.initializer, module)
        seed_process(settings.seed, place)
        updater = self.updater or BaseUpdater()
        self._introduce(updater, module, place)
        updater.set_llm_module(distribute(module, place) if self.updater is not None else module)
        return ServedLlm(module, updater, self.first_rank + place.worker_index, is_v03=self.is_v03)

    def _model_settings(self) -> ModelSettings:
        found = self.settings
        # The heads in scripts for the main branch tell padding by the id 0: there rows are filled up with it. Scores
        # of ours go by masks.
        pad = found.pad_token_id if self.is_v03 or found.pad_token_id is not None else 0
        return ModelSettings(
            path=found.model_path,
            kind=found.model_type,
            is_pretrained=found.pretrained,
            load_in_4bit=found.load_in_4bit,
            minibatch_size=found.minibatch_size,
            pre_encode_inputs=found.pre_encode_inputs,
            pad_token_id=pad,
            interpret_special_tokens=True,
            trust_remote_code=True,
            seed=found.seed,
            options=found.constructor_kwargs,
        )

    def _introduce(self, hook: Any, module: LlmModule, place: Place) -> None:
        """Tell a hook what it is part of."""
        config = module.get_model_config()
        hook.model_config = config
        hook.llm_config = ConfigNode({**self.settings.node, "pad_token": module.pad_token}) if self.is_v03 else config
        hook.current_process_config = {"llm": self.name, "process_index": self.first_rank + place.worker_index}

    def _initialized(self, initializer: BaseModelInitializer, module: LlmModule) -> LlmModule:
        found = initializer.initialize_model(module)
        if not isinstance(found, LlmModule):
            raise HostError(
                f"Expected initialize_model of {type(initializer).__name__} to return the model it was given, got "
                f"{type(found).__name__}. End it with: return model"
            )
        return found


class ServedLlm:
    """A model that answers in one process; see `llmgym.host.Served`."""

    def __init__(self, module: LlmModule, updater: BaseUpdater, rank: int, *, is_v03: bool) -> None:
        self.module = module
        self._updater = updater
        self._rank = rank
        self._is_v03 = is_v03

    def run(self, request: PassRequest) -> list[PassResult]:
        """Run module functions."""
        options = request.options
        return self.module.forward(
            request.keys,
            request.contexts,
            request.candidates,
            require_grad=request.with_gradients,
            minibatch_size=options.minibatch_size,
            add_eos_on_candidates=options.add_eos,
            peft_adapter=options.adapter,
            pad_contexts=options.pad_contexts,
            forced_context_len=options.context_length,
            forced_sequence_len=options.sequence_length,
            **options.named,
        )

    def generate(self, request: GenerateRequest) -> Any:
        """Generate texts, described as Lamorel does."""
        generation = dict(request.generation)
        with_logprobs = bool(generation.pop("return_logprobs", False))
        return self.module.generate(request.contexts, with_logprobs, request.adapter, **generation)

    def update(self, shard: Shard) -> Any:
        """Let the script's updater update the model."""
        indices: Any = list(shard.indices)
        if self._is_v03:
            counts = (
                [None] * len(indices) if shard.candidates is None else [list(range(len(c))) for c in shard.candidates]
            )
            indices = {"contexts": indices, "candidates": counts}
        with _accelerate_rank(self._rank):
            return self._updater.perform_update(shard.contexts, shard.candidates, indices, **shard.data)


@contextmanager
def _accelerate_rank(rank: int) -> Iterator[None]:
    """Let accelerate tell the rank that a script knows its servers by, such as the one that saves checkpoints.

    Lamorel's scripts compare `Accelerator().process_index`, which is 0 in a program that no launcher started.
    """
    module = sys.modules.get("accelerate.state")
    holders = [getattr(module, name, None) for name in ("PartialState", "AcceleratorState")]
    states = [
        found for found in (getattr(holder, "_shared_state", {}) for holder in holders) if "process_index" in found
    ]
    before = [state["process_index"] for state in states]
    for state in states:
        state["process_index"] = rank
    try:
        yield
    finally:
        for state, index in zip(states, before, strict=True):
            state["process_index"] = index
