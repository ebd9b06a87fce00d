"""What a script extends: module functions, updaters and initialisers, with Lamorel's signatures."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from llmgym.host.rows import Output, Rows

__all__ = ["BaseModelInitializer", "BaseModuleFunction", "BaseUpdater"]

_LOGGER = logging.getLogger("llmgym.compat.lamorel")


class BaseModuleFunction(nn.Module):
    """A module that reads the model's output, such as a value head.

    Attributes:
        device: where the model is: "cpu" or a torch device.
        llm_config: the transformers config of the model; in v0.3 the model's part of the configuration, with pad_token.
        model_config: the transformers config of the model.
        current_process_config: "llm", the model's name, and "process_index".
    """

    def __init__(self) -> None:
        super().__init__()
        self.device: torch.device | str | None = None
        self.llm_config: Any = None
        self.model_config: Any = None
        self.current_process_config: Any = None

    def initialize(self) -> None:
        """Make the module's layers: the model's config and the device are known by now."""
        raise NotImplementedError(f"Expected {type(self).__name__} to define initialize(self).")

    def forward(self, forward_outputs: Any, minibatch: Any, tokenized_contexts: Any, **kwargs: Any) -> Any:
        """Return a tensor with one entry a row, or several such in a dictionary.

        Args:
            forward_outputs: what the model returned, with all hidden states.
            minibatch: what it was given: input_ids, attention_mask and so on, by name.
            tokenized_contexts: for each row the padded context, "input_ids" and "attention_mask"; of causal models
                without its last token, which is the first of the row's own tokens.
            kwargs: `current_minibatch_ids`, the rows' places among all rows, and what the call was given besides.
        """
        raise NotImplementedError(f"Expected {type(self).__name__} to define forward(...).")

    def read(self, rows: Rows, named: Mapping[str, Any]) -> Output:
        """Call `forward`; see `llmgym.host.ModuleFunction`."""
        parameters = inspect.signature(self.forward).parameters.values()
        takes_ids = any(
            parameter.name == "current_minibatch_ids" or parameter.kind is parameter.VAR_KEYWORD
            for parameter in parameters
        )
        ids = {"current_minibatch_ids": list(rows.row_indices)} if takes_ids else {}
        contexts = [dict(context) for context in rows.padded_contexts]
        output: Output = self(
            rows.outputs, minibatch=dict(rows.given.inputs), tokenized_contexts=contexts, **ids, **named
        )
        return output


class BaseUpdater:
    """Who updates the model; each process of a model has its own.

    Attributes:
        llm_config: see `BaseModuleFunction`.
        model_config: see `BaseModuleFunction`.
        current_process_config: see `BaseModuleFunction`.
    """

    def __init__(self) -> None:
        self._llm_module: Any = None
        self.llm_config: Any = None
        self.model_config: Any = None
        self.current_process_config: Any = None

    def set_llm_module(self, llm_module: nn.Module) -> None:
        """Take the module to update; the model and its heads are ``llm_module.module``."""
        self._llm_module = llm_module

    def perform_update(self, contexts: Any, candidates: Any, _current_batch_ids: Any, **kwargs: Any) -> Any:
        """Update the model; what is returned goes back to the caller.

        Args:
            contexts: this process's part.
            candidates: of these contexts; None where none were given.
            _current_batch_ids: their places among all contexts: a list, or in v0.3 such lists by "contexts" and
                "candidates".
            kwargs: what the call was given besides; the same in every process.
        """
        _LOGGER.warning("update was called, but the Caller was given no updater: nothing is done.")


class BaseModelInitializer:
    """Who changes the model before it is distributed: freezes, adds adapters, loads weights."""

    def __init__(self) -> None:
        self.llm_config: Any = None
        self.model_config: Any = None
        self.current_process_config: Any = None

    def initialize_model(self, model: Any) -> Any:
        """Change the model, and return it; the transformers model is ``model._modules["_LLM_model"]``."""
        raise NotImplementedError(f"Expected {type(self).__name__} to define initialize_model(self, model).")
