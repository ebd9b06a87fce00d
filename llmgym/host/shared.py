"""What the candidates of a context share: its KV cache, or the encoder's output. Differentiable where asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from llmgym.host.inputs import InputSettings
from llmgym.host.layout import ContextLayout, base_model, position_ids, takes_argument

__all__ = ["Shared", "encode_shared"]


class Shared(Protocol):
    """The encoded contexts of a pass."""

    def inputs_for(self, context_indices: Sequence[int]) -> dict[str, Any]:
        """Return the model's arguments that stand for the context of every row."""
        ...


class _NoContext:
    """Contexts of a single token: nothing comes before the token that opens the candidates."""

    def inputs_for(self, context_indices: Sequence[int]) -> dict[str, Any]:
        return {"use_cache": False}


class _SharedCache:
    """The KV caches of N contexts.

    Attributes:
        layers: for every layer its keys and values, (N, num_heads, T, head_size) each.
    """

    def __init__(self, layers: Sequence[tuple[Tensor, Tensor]]) -> None:
        self.layers = layers

    def inputs_for(self, context_indices: Sequence[int]) -> dict[str, Any]:
        from transformers import DynamicCache

        # A new cache each time: a forward pass appends to the one it is given, without touching these tensors.
        cache = DynamicCache()
        for number, (keys, values) in enumerate(self.layers):
            picked = torch.tensor(context_indices, device=keys.device)
            cache.update(keys.index_select(0, picked), values.index_select(0, picked), number)
        return {"past_key_values": cache, "use_cache": True}


class _SharedEncoding:
    """The encoder's output for N contexts: (N, T, D)."""

    def __init__(self, states: Tensor) -> None:
        self.states = states

    def inputs_for(self, context_indices: Sequence[int]) -> dict[str, Any]:
        from transformers.modeling_outputs import BaseModelOutput

        picked = torch.tensor(context_indices, device=self.states.device)
        return {"encoder_outputs": BaseModelOutput(last_hidden_state=self.states.index_select(0, picked))}


def encode_shared(model: Any, contexts: ContextLayout, inputs: InputSettings, minibatch_size: int) -> Shared:
    """Encode every context of a pass once.

    Args:
        model: the language model.
        contexts: padded to one length.
        inputs: how the model is fed.
        minibatch_size: contexts of one forward pass.
    """
    indices = range(len(contexts.padded))
    chunks = [indices[start : start + minibatch_size] for start in range(0, len(indices), minibatch_size)]
    tensors = [contexts.tensors(chunk, inputs.device) for chunk in chunks]
    if inputs.is_encoder_decoder:
        encoder = base_model(model).get_encoder()
        return _SharedEncoding(torch.cat([encoder(**chunk, return_dict=True).last_hidden_state for chunk in tensors]))
    if tensors[0]["input_ids"].shape[1] == 0:
        return _NoContext()
    caches = [_cache_layers(model, chunk) for chunk in tensors]
    return _SharedCache(
        [
            (torch.cat([keys for keys, _ in layer]), torch.cat([values for _, values in layer]))
            for layer in zip(*caches, strict=True)
        ]
    )


def _cache_layers(model: Any, tensors: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Return the keys and values of every layer after a forward pass."""
    from transformers import DynamicCache

    # Given from outside, the cache keeps all positions, even where a model's attention slides.
    cache = DynamicCache()
    options: dict[str, Any] = dict(tensors)
    if takes_argument(model, "position_ids"):
        options["position_ids"] = position_ids(tensors["attention_mask"])
    if takes_argument(model, "logits_to_keep"):
        options["logits_to_keep"] = 1
    model(**options, past_key_values=cache, use_cache=True)
    return [(layer.keys, layer.values) for layer in cache.layers]
