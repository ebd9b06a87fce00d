"""Contexts: each is read once, many together, and kept for the asks that follow. Knows no asks."""

from __future__ import annotations

from collections.abc import Iterable

from llmgym.engine.transformers_forward import Transformer
from llmgym.engine.transformers_memory import Memory, MemoryCache
from llmgym.types import TokenIds

__all__ = ["Contexts"]

Missing = dict[TokenIds, tuple[TokenIds, Memory] | None]
"""Context to the longest one that is kept and that it goes on from, with its memory; None if there is none."""


class Contexts:
    """Reads contexts and remembers those read lately. Whoever asks has put the adapter in force."""

    def __init__(self, transformer: Transformer, max_bytes: int, *, max_rows: int, max_tokens: int) -> None:
        """Read with a transformer.

        Args:
            transformer: reads.
            max_bytes: memory for what is kept.
            max_rows: rows of one pass at most.
            max_tokens: tokens of one pass at most, padding included; a longer context goes alone.
        """
        self._transformer = transformer
        self._cache = MemoryCache(max_bytes)
        self._max_rows = max_rows
        self._max_tokens = max_tokens

    def remember(self, adapter: str, contexts: Iterable[TokenIds]) -> dict[TokenIds, Memory]:
        """Return the memory of each context that is kept, and of one batch of those that are not."""
        memories: dict[TokenIds, Memory] = {}
        missing: Missing = {}
        for context_ids in dict.fromkeys(contexts):
            memory = self._cache.find(adapter, context_ids)
            if memory is not None:
                memories[context_ids] = memory
            elif self._transformer.is_encoder_decoder:
                missing[context_ids] = None
            else:
                missing[context_ids] = self._cache.find_longest_prefix(adapter, context_ids)
        if missing:
            memories |= self._read(adapter, missing)
        return memories

    def num_fitting(self, num_tokens: int) -> int:
        """Return how many rows of so many tokens go into one pass, at least 1."""
        return max(1, min(self._max_rows, self._max_tokens // num_tokens))

    def forget(self) -> None:
        """Forget all that was read: the weights are about to change."""
        self._cache.clear()

    def _read(self, adapter: str, missing: Missing) -> dict[TokenIds, Memory]:
        """Read and keep a batch of contexts: of those that go on from one that is kept, or of those that do not."""
        goes_on = next(iter(missing.values())) is not None
        # Long ones go together, so that little of a batch is padding.
        contexts = sorted((ids for ids in missing if (missing[ids] is not None) == goes_on), key=len, reverse=True)
        contexts = contexts[: self.num_fitting(len(contexts[0]))]
        known = [found for ids in contexts if (found := missing[ids]) is not None]
        if known:
            unread = [ids[len(prefix_ids) :] for ids, (prefix_ids, _) in zip(contexts, known, strict=True)]
            read = self._transformer.read(unread, [memory for _, memory in known])
        else:
            read = self._transformer.read(contexts)
        for context_ids, memory in zip(contexts, read, strict=True):
            self._cache.keep(adapter, context_ids, memory)
        return dict(zip(contexts, read, strict=True))
