"""Memory: what a model keeps of the tokens it has read, for one sequence, for a batch, and for those read lately.

Rows of a batch are padded on the left, so that what follows stands right behind a row's own last token, at the
distance it would have alone. Knows no model and no ask.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from llmgym.types import TokenIds

__all__ = ["Layers", "Memory", "MemoryBatch", "MemoryCache"]

Layers = tuple[tuple[Tensor, Tensor], ...]
"""Keys and values of every layer: (num_heads, num_tokens, head size) each, with rows in front in a batch."""


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """What is kept of one sequence.

    Attributes:
        layers: of the tokens that what follows attends to: the context, or the start token of a decoder.
        cross_layers: of the encoder's output; () where there is no encoder.
        logprobs: float32 (V,); of the token that comes next.
    """

    layers: Layers
    cross_layers: Layers
    logprobs: Tensor

    @property
    def size_bytes(self) -> int:
        """Memory taken, in bytes."""
        tensors = [tensor for layer in (*self.layers, *self.cross_layers) for tensor in layer]
        return sum(tensor.nbytes for tensor in (*tensors, self.logprobs))


@dataclass(frozen=True, slots=True, eq=False)
class MemoryBatch:
    """What is kept of several sequences, one a row.

    Attributes:
        layers: padded on the left with zeros.
        num_tokens: of each row, padding left out.
        cross_layers: the same of the encoder's output.
        num_cross_tokens: of each row's encoder output; () where there is no encoder.
    """

    layers: Layers
    num_tokens: tuple[int, ...]
    cross_layers: Layers = ()
    num_cross_tokens: tuple[int, ...] = ()

    @classmethod
    def stack(cls, memories: Sequence[Memory]) -> MemoryBatch:
        """Put memories side by side; one that is given several times is padded once."""
        distinct = list({id(memory): memory for memory in memories}.values())
        places = {id(memory): place for place, memory in enumerate(distinct)}
        layers, num_tokens = _stack([memory.layers for memory in distinct])
        cross_layers, num_cross_tokens = _stack([memory.cross_layers for memory in distinct])
        batch = cls(layers, num_tokens, cross_layers, num_cross_tokens)
        if len(distinct) == len(memories):
            return batch
        return batch.select([places[id(memory)] for memory in memories])

    def select(self, rows: Sequence[int]) -> MemoryBatch:
        """Return some of the rows, in the order given; a row may be given several times."""
        num_tokens = tuple(self.num_tokens[row] for row in rows)
        num_cross_tokens = tuple(self.num_cross_tokens[row] for row in rows) if self.cross_layers else ()
        return MemoryBatch(
            _select(self.layers, rows, num_tokens),
            num_tokens,
            _select(self.cross_layers, rows, num_cross_tokens),
            num_cross_tokens,
        )

    def join(self, other: MemoryBatch) -> MemoryBatch:
        """Return the rows of both, the other's behind."""
        return MemoryBatch(
            _join(self.layers, other.layers),
            self.num_tokens + other.num_tokens,
            _join(self.cross_layers, other.cross_layers),
            self.num_cross_tokens + other.num_cross_tokens,
        )


class MemoryCache:
    """Memories of contexts that were read lately; the one longest not used goes first."""

    def __init__(self, max_bytes: int) -> None:
        """Keep memories of so many bytes together; a single one that is larger is not kept."""
        self._max_bytes = max_bytes
        self._size_bytes = 0
        self._kept: OrderedDict[tuple[str, TokenIds], Memory] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, adapter: str, context_ids: TokenIds) -> Memory | None:
        """Return the memory of a context; None if it is not kept."""
        memory = self._kept.get((adapter, context_ids))
        if memory is not None:
            self._kept.move_to_end((adapter, context_ids))
        return memory

    def find_longest_prefix(self, adapter: str, context_ids: TokenIds) -> tuple[TokenIds, Memory] | None:
        """Return the longest context that is kept and that the given one goes on from, with its memory."""
        lengths = {len(ids) for name, ids in self._kept if name == adapter and len(ids) < len(context_ids)}
        for length in sorted(lengths, reverse=True):
            memory = self.find(adapter, context_ids[:length])
            if memory is not None:
                return context_ids[:length], memory
        return None

    def keep(self, adapter: str, context_ids: TokenIds, memory: Memory) -> None:
        """Keep the memory of a context, and let go of others until all fit."""
        if memory.size_bytes > self._max_bytes:
            return
        before = self._kept.pop((adapter, context_ids), None)
        self._size_bytes += memory.size_bytes - (before.size_bytes if before is not None else 0)
        self._kept[adapter, context_ids] = memory
        while self._size_bytes > self._max_bytes:
            _, dropped = self._kept.popitem(last=False)
            self._size_bytes -= dropped.size_bytes

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self._size_bytes = 0


def _stack(rows: Sequence[Layers]) -> tuple[Layers, tuple[int, ...]]:
    """Pad the layers of several sequences to one length; return them with the length of each."""
    if not rows[0]:
        return (), ()
    num_tokens = tuple(layers[0][0].shape[-2] for layers in rows)
    longest = max(num_tokens)

    def stacked(tensors: Sequence[Tensor]) -> Tensor:
        num_heads, _, head_size = tensors[0].shape
        result = tensors[0].new_zeros(len(tensors), num_heads, longest, head_size)
        for row, tensor in zip(result, tensors, strict=True):
            row[:, longest - tensor.shape[-2] :] = tensor
        return result

    per_layer = zip(*rows, strict=True)
    stacks = tuple((stacked([one[0] for one in layer]), stacked([one[1] for one in layer])) for layer in per_layer)
    return stacks, num_tokens


def _select(layers: Layers, rows: Sequence[int], num_tokens: tuple[int, ...]) -> Layers:
    """Select rows, and cut off padding that all of them have."""
    if not layers:
        return ()
    picked = torch.tensor(rows, device=layers[0][0].device)
    first = layers[0][0].shape[-2] - max(num_tokens)
    return _mapped(layers, lambda tensor: tensor[:, :, first:].index_select(0, picked))


def _join(first: Layers, second: Layers) -> Layers:
    """Join rows, padded to one length."""
    if not first:
        return ()
    longest = max(first[0][0].shape[-2], second[0][0].shape[-2])
    padded = [
        _mapped(layers, lambda tensor: pad(tensor, (0, 0, longest - tensor.shape[-2], 0))) for layers in (first, second)
    ]
    return tuple(
        (torch.cat([one[0], other[0]]), torch.cat([one[1], other[1]])) for one, other in zip(*padded, strict=True)
    )


def _mapped(layers: Layers, change: Callable[[Tensor], Tensor]) -> Layers:
    """Change every tensor of some layers."""
    return tuple((change(keys), change(values)) for keys, values in layers)
