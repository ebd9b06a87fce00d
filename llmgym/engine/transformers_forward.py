"""Forward passes that share what was read: contexts once, and rows of tokens behind them. Knows no asks.

A context is read once. A decoder-only model then keeps its keys and values; an encoder-decoder keeps those of the
encoder's output, and of the decoder's start token. In a batch what is kept is padded on the left and the rows behind
it on the right (- is padding, a b c d are contexts, x y z rows):

    a b c | x y z
    - - d | x - -

so that a row stands right behind its own context, its positions go on from there, and no token sees padding.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from llmgym.engine.transformers_memory import Layers, Memory, MemoryBatch
from llmgym.errors import EngineError
from llmgym.types import TokenIds

__all__ = ["Transformer"]


class Transformer:
    """A Hugging Face model that reads contexts, and rows behind them.

    Attributes:
        model: the transformers model; adapters may be put into its layers.
        is_encoder_decoder: whether contexts go to an encoder.
    """

    def __init__(self, model: Any) -> None:
        """Take a model in evaluation mode.

        Raises:
            EngineError: it is an encoder-decoder, and its config does not name the token that the decoder begins with.
        """
        self.model = model
        self.is_encoder_decoder = bool(model.config.is_encoder_decoder)
        self._start_token_id = getattr(model.config, "decoder_start_token_id", None)
        if self.is_encoder_decoder and self._start_token_id is None:
            raise EngineError(
                "Expected the config of an encoder-decoder to name decoder_start_token_id, found none. Add it to the "
                "model's config.json; T5's is its pad_token_id."
            )
        self._arguments = frozenset(inspect.signature(model.forward).parameters)
        self._device: torch.device = model.device

    def read(self, contexts: Sequence[TokenIds], past: Sequence[Memory] = ()) -> list[Memory]:
        """Read contexts.

        Args:
            contexts: at least one, each of at least one token.
            past: for each of them the memory of what stands before it; () if nothing does, as for every encoder.
        """
        if self.is_encoder_decoder:
            return self._encode(contexts)
        batch = MemoryBatch.stack(past) if past else None
        logprobs, read = self.run(batch, contexts, [1] * len(contexts))
        num_before = batch.num_tokens if batch is not None else (0,) * len(contexts)
        longest = max(map(len, contexts))
        memories = []
        for row, ids in enumerate(contexts):
            first = read.layers[0][0].shape[-2] - longest - num_before[row]
            layers = _cut(read.layers, row, first, first + num_before[row] + len(ids))
            memories.append(Memory(layers, (), logprobs[row][-1].clone()))
        return memories

    def run(
        self, past: MemoryBatch | None, rows: Sequence[TokenIds], num_told: Sequence[int]
    ) -> tuple[list[Tensor], MemoryBatch]:
        """Run rows of tokens behind what was read.

        Args:
            past: as many rows; None if nothing was read, never for an encoder-decoder.
            rows: at least one, each of at least one token.
            num_told: for each row, how many of its last tokens tell what follows them, at least 1.

        Returns:
            for each row, float32 (its num_told, V): the log-probabilities of the token after each; and what was read
            by now, where rows shorter than the longest end in garbage.
        """
        longest = max(map(len, rows))
        input_ids, row_mask = _padded(rows)
        num_before = past.num_tokens if past is not None else (0,) * len(rows)
        mask = torch.cat([_left_mask(num_before), row_mask], dim=1)
        cache = _cache(past)
        if past is not None and self.is_encoder_decoder:
            cross_mask = _left_mask(past.num_cross_tokens)
            inputs = {"decoder_input_ids": input_ids, "decoder_attention_mask": mask, "attention_mask": cross_mask}
        else:
            positions = torch.tensor(num_before)[:, None] + torch.arange(longest)
            inputs = {"input_ids": input_ids, "attention_mask": mask, "position_ids": positions}
        # All rows tell at the same places, of which each then takes its own.
        told = sorted({place for ids, num in zip(rows, num_told, strict=True) for place in _last(ids, num)})
        logits = self._forward(inputs, cache, self._placeholder(past), told)
        logprobs = []
        for row, (ids, num) in enumerate(zip(rows, num_told, strict=True)):
            own = [told.index(place) for place in _last(ids, num)]
            logprobs.append(logits[row, own].float().log_softmax(-1))
        cross_layers, num_cross_tokens = (past.cross_layers, past.num_cross_tokens) if past is not None else ((), ())
        num_tokens = tuple(before + longest for before in num_before)
        return logprobs, MemoryBatch(_layers(cache), num_tokens, cross_layers, num_cross_tokens)

    def _encode(self, contexts: Sequence[TokenIds]) -> list[Memory]:
        """Run the encoder, and the decoder's start token, whose cross-attention reads the encoder's output once."""
        input_ids, mask = _padded(contexts)
        encoded = self.model.get_encoder()(
            input_ids=input_ids.to(self._device), attention_mask=mask.to(self._device), return_dict=True
        )
        start = torch.full((len(contexts), 1), int(self._start_token_id or 0))
        inputs = {"decoder_input_ids": start, "attention_mask": mask}
        cache = _encoder_decoder_cache((), ())
        logits = self._forward(inputs, cache, encoded, [0])
        layers, cross_layers = _layers(cache), _layers(cache.cross_attention_cache)
        return [
            Memory(
                _cut(layers, row, 0, 1),
                _cut(cross_layers, row, 0, len(ids)),
                logits[row, 0].float().log_softmax(-1),
            )
            for row, ids in enumerate(contexts)
        ]

    def _forward(self, inputs: dict[str, Tensor], cache: Any, encoded: Any, told: Sequence[int]) -> Tensor:
        """Run the model; return logits (num_rows, len(told), V) at the places told."""
        options: dict[str, Any] = {
            name: tensor.to(self._device) for name, tensor in inputs.items() if name in self._arguments
        }
        if encoded is not None:
            options["encoder_outputs"] = encoded
        places = torch.tensor(told, device=self._device)
        if "logits_to_keep" in self._arguments:
            logits: Tensor = self.model(**options, past_key_values=cache, use_cache=True, logits_to_keep=places).logits
            return logits
        logits = self.model(**options, past_key_values=cache, use_cache=True).logits
        return logits.index_select(1, places)

    def _placeholder(self, past: MemoryBatch | None) -> Any:
        """Return what stands for the encoder's output once its keys and values are kept: only its shape is read."""
        if past is None or not past.cross_layers:
            return None
        from transformers.modeling_outputs import BaseModelOutput

        shape = (len(past.num_tokens), max(past.num_cross_tokens), self.model.config.hidden_size)
        nothing = torch.zeros(1, dtype=self.model.dtype, device=self._device).expand(shape)
        return BaseModelOutput(last_hidden_state=nothing)


def _cache(past: MemoryBatch | None) -> Any:
    """Return what was read as transformers' cache, which a pass appends to."""
    if past is not None and past.cross_layers:
        return _encoder_decoder_cache(past.layers, past.cross_layers)
    return _decoder_cache(past.layers if past is not None else ())


def _decoder_cache(layers: Layers) -> Any:
    from transformers import DynamicCache

    # Without the model's config, it keeps all positions, even where a model's attention slides.
    cache = DynamicCache()
    for number, (keys, values) in enumerate(layers):
        # An update with nothing makes the layer; setting its tensors then spares the copy that an update makes.
        cache.update(keys[:, :, :0], values[:, :, :0], number)
        cache.layers[number].keys, cache.layers[number].values = keys, values
    return cache


def _encoder_decoder_cache(layers: Layers, cross_layers: Layers) -> Any:
    from transformers import EncoderDecoderCache

    return EncoderDecoderCache(_decoder_cache(layers), _decoder_cache(cross_layers))


def _layers(cache: Any) -> Layers:
    """Return the keys and values of a cache."""
    own = getattr(cache, "self_attention_cache", cache)
    return tuple((layer.keys, layer.values) for layer in own.layers)


def _cut(layers: Layers, row: int, first: int, end: int) -> Layers:
    """Return a copy of one row's keys and values from one token to another, so that the batch can be freed."""
    return tuple((keys[row, :, first:end].clone(), values[row, :, first:end].clone()) for keys, values in layers)


def _padded(rows: Sequence[TokenIds]) -> tuple[Tensor, Tensor]:
    """Return token ids and mask, int64 (num_rows, longest), padded on the right."""
    longest = max(map(len, rows))
    input_ids = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in rows])
    mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in rows])
    return input_ids, mask


def _left_mask(num_tokens: Sequence[int]) -> Tensor:
    """Return int64 (num_rows, most tokens): 1 where a row padded on the left has a token."""
    longest = max(num_tokens)
    return (torch.arange(longest) >= longest - torch.tensor(num_tokens)[:, None]).long()


def _last(ids: TokenIds, num: int) -> range:
    """Return the places of the last tokens of a row."""
    return range(len(ids) - num, len(ids))
