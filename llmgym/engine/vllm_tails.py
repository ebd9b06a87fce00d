"""Tails: what vLLM's prefix cache leaves out, kept and copied, so that no token of a context is computed twice.

vLLM caches whole blocks. A context's last, partial block is computed anew by every request that goes on from it: by
each candidate of a state, and by the next turn of an episode. Here it is kept when the context has been computed, and
copied into the own block of whoever goes on from it. This is a connector in vLLM's sense (its interface for caches
outside of its own), so that the scheduler, several workers, and preemption all know of it.

The scheduler's side decides which slot holds which tail; the worker's side copies. A tail that was forgotten costs
time only: its tokens are computed anew.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from vllm.distributed.kv_transfer import kv_transfer_state
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
)

__all__ = ["TAIL_KEY", "OwnConnector", "TailConnector"]

TAIL_KEY = "llmgym_tail"
"""In a request's `extra_args`: (generation of the weights, whether the end of the prompt is kept). Requests without
it neither read nor leave a tail."""

SLOTS_PER_REQUEST = 2
"""Slots for each request of the largest batch: its tail of this turn, and of the one before. More would only be colder
memory."""

BLOCKS_PER_SLOT = 8
"""At most one slot for this many blocks of vLLM's cache."""

Key = tuple[Any, ...]


@dataclass
class TailMetadata(KVConnectorMetadata):  # type: ignore[misc]  # vllm is not typed
    """What the workers copy around one forward pass.

    Attributes:
        loads: (slot, block) before it.
        saves: (slot, block) after it.
    """

    loads: list[tuple[int, int]]
    saves: list[tuple[int, int]]


@dataclass(slots=True)
class _Pending:
    """A request whose prompt's end is to be kept once it is computed."""

    request: Any
    block_ids: list[int]


class TailConnector(KVConnectorBase_V1):  # type: ignore[misc]  # vllm is not typed
    """Keep the partial last blocks of prompts, and copy them to whoever goes on from there."""

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self._block_size: int = vllm_config.cache_config.block_size
        self._num_blocks: int = kv_cache_config.num_blocks
        num_wanted = SLOTS_PER_REQUEST * vllm_config.scheduler_config.max_num_seqs
        self._num_slots = max(16, min(num_wanted, self._num_blocks // BLOCKS_PER_SLOT))
        # The scheduler's side.
        self._slots: OrderedDict[tuple[Key, tuple[int, ...]], int] = OrderedDict()
        self._tails: dict[Key, list[tuple[int, ...]]] = {}
        self._found: dict[str, tuple[int, int]] = {}
        self._pending: dict[str, _Pending] = {}
        self._loads: list[tuple[int, int]] = []
        # The workers' side.
        self._caches: list[torch.Tensor] = []
        self._kept: list[torch.Tensor] = []

    # The scheduler's side: which tail is where.

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int, bool]:
        """Return how many tokens beyond the cached blocks a kept tail holds; at least one is left to compute."""
        self._found.pop(request.request_id, None)
        wanted = _wanted(request)
        if wanted is None:
            return 0, False
        key = self._key(request, wanted[0], num_computed_tokens)
        last = min(num_computed_tokens + self._block_size, request.num_tokens - 1)
        tokens = tuple(request.all_token_ids[num_computed_tokens:last])
        best: tuple[int, ...] = ()
        num_best = 0
        for tail in self._tails.get(key, ()):
            num_shared = _num_shared(tail, tokens)
            if num_shared > num_best:
                best, num_best = tail, num_shared
        if num_best:
            self._slots.move_to_end((key, best))
            self._found[request.request_id] = (self._slots[key, best], num_computed_tokens // self._block_size)
        return num_best, False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """Note which block a tail is copied into, and whether the end of this prompt is to be kept."""
        (block_ids,) = blocks.get_block_ids()
        found = self._found.pop(request.request_id, None)
        if num_external_tokens and found is not None:
            slot, position = found
            self._loads.append((slot, block_ids[position]))
        wanted = _wanted(request)
        if wanted is not None and wanted[1] and request.num_prompt_tokens % self._block_size:
            self._pending[request.request_id] = _Pending(request, list(block_ids))

    def build_connector_meta(self, scheduler_output: Any) -> TailMetadata:
        """Return what this step copies; forget the oldest tails where slots run out."""
        cached = scheduler_output.scheduled_cached_reqs
        for request_id, new_blocks in zip(cached.req_ids, cached.new_block_ids, strict=True):
            if request_id in self._pending and new_blocks is not None:
                self._pending[request_id].block_ids.extend(new_blocks[0])
        saves = []
        for request_id, num_tokens in scheduler_output.num_scheduled_tokens.items():
            pending = self._pending.get(request_id)
            if pending is None or pending.request.num_computed_tokens + num_tokens < pending.request.num_prompt_tokens:
                continue
            del self._pending[request_id]
            slot = self._new_slot(pending.request)
            if slot is not None:
                saves.append((slot, pending.block_ids[pending.request.num_prompt_tokens // self._block_size]))
        loads, self._loads = self._loads, []
        return TailMetadata(loads, saves)

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        """Forget a request; its blocks may be freed at once."""
        self._pending.pop(request.request_id, None)
        self._found.pop(request.request_id, None)
        return False, None

    def _new_slot(self, request: Any) -> int | None:
        """Return the slot for the end of a request's prompt, or None if it is kept already."""
        num_whole = request.num_prompt_tokens // self._block_size * self._block_size
        wanted = _wanted(request)
        assert wanted is not None, "only requests that keep their tail get here"
        key = self._key(request, wanted[0], num_whole)
        tail = tuple(request.all_token_ids[num_whole : request.num_prompt_tokens])
        if (key, tail) in self._slots:
            return None
        slot = len(self._slots)
        if slot == self._num_slots:
            (old_key, old_tail), slot = self._slots.popitem(last=False)
            self._tails[old_key].remove(old_tail)
            if not self._tails[old_key]:
                del self._tails[old_key]
        self._slots[key, tail] = slot
        self._tails.setdefault(key, []).append(tail)
        return slot

    def _key(self, request: Any, generation: int, num_tokens: int) -> Key:
        """Return what the keys and values of a tail depend on: weights, adapter, and all tokens before."""
        adapter = request.lora_request.lora_int_id if request.lora_request else 0
        parent = request.block_hashes[num_tokens // self._block_size - 1] if num_tokens else b""
        return (generation, adapter, parent)

    # The workers' side: copies.

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        """Make room for the slots, beside the cache of every layer."""
        for cache in kv_caches.values():
            by_block = cache if cache.shape[0] == self._num_blocks else cache.movedim(1, 0)
            self._caches.append(by_block)
            self._kept.append(
                torch.empty((self._num_slots, *by_block.shape[1:]), dtype=cache.dtype, device=cache.device)
            )

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Copy tails into the blocks of those who go on from them."""
        metadata = self._get_connector_metadata()
        assert isinstance(metadata, TailMetadata), "the scheduler's side of this class made it"
        _copy(self._kept, self._caches, metadata.loads)

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Do nothing: all copies were made before the forward pass."""

    def save_kv_layer(self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any) -> None:
        """Do nothing: all copies are made after the forward pass."""

    def wait_for_save(self) -> None:
        """Copy the ends of prompts that this forward pass completed."""
        metadata = self._get_connector_metadata()
        assert isinstance(metadata, TailMetadata), "the scheduler's side of this class made it"
        _copy(self._caches, self._kept, [(block, slot) for slot, block in metadata.saves])


class OwnConnector:
    """The workers' side of one engine, among several engines of a process.

    vLLM knows one connector a process, which the first engine makes: a second engine would copy between the blocks of
    the first. So each engine's connector is vLLM's only while that engine works.
    """

    def __init__(self) -> None:
        self._connector: Any = None

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let vLLM find this engine's connector, or none before it was made; set back what was found."""
        found = kv_transfer_state._KV_CONNECTOR_AGENT
        kv_transfer_state._KV_CONNECTOR_AGENT = self._connector
        try:
            yield
        finally:
            self._connector = kv_transfer_state._KV_CONNECTOR_AGENT
            kv_transfer_state._KV_CONNECTOR_AGENT = found


def _wanted(request: Any) -> tuple[int, bool] | None:
    """Return what a request says about tails."""
    parameters = request.sampling_params
    extra_args = parameters.extra_args if parameters is not None else None
    return extra_args.get(TAIL_KEY) if extra_args else None


def _num_shared(tail: tuple[int, ...], tokens: tuple[int, ...]) -> int:
    """Return how many tokens two sequences have in common from their start."""
    if tail == tokens[: len(tail)]:
        return len(tail)
    num_shared = 0
    for one, other in zip(tail, tokens, strict=False):
        if one != other:
            break
        num_shared += 1
    return num_shared


def _copy(sources: list[torch.Tensor], targets: list[torch.Tensor], pairs: list[tuple[int, int]]) -> None:
    """Copy rows (source, target) of every layer."""
    if not pairs:
        return
    if sources[0].device.type == "cpu":
        # One plain copy a row is two to three times as fast here as indexing with a tensor.
        for source, target in zip(sources, targets, strict=True):
            for row, to_row in pairs:
                target[to_row].copy_(source[row])
        return
    rows = torch.tensor(pairs, device=sources[0].device)
    for source, target in zip(sources, targets, strict=True):
        target.index_copy_(0, rows[:, 1], source.index_select(0, rows[:, 0]))
