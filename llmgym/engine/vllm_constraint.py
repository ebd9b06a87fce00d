"""The constraint: vLLM samples one of a list of token sequences, token by token, renormalised at every token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

from llmgym.candidates import Trie, build_trie

__all__ = ["ALLOWED_KEY", "TrieConstraint"]

ALLOWED_KEY = "llmgym_allowed"
"""In a request's `extra_args`: the token sequences that may be sampled."""


class TrieConstraint(AdapterLogitsProcessor):  # type: ignore[misc]  # vllm is not typed
    """Give every token that continues none of a request's sequences a logit of -inf."""

    def is_argmax_invariant(self) -> bool:
        """Return False: the best token overall may not be among those allowed."""
        return False

    def new_req_logits_processor(self, params: Any) -> Callable[[list[int], torch.Tensor], torch.Tensor] | None:
        """Return the mask of a request; None for one that may say anything."""
        allowed = (params.extra_args or {}).get(ALLOWED_KEY)
        return None if allowed is None else _Walk(build_trie(tuple(map(tuple, allowed))))


class _Walk:
    """Follow what was sampled down the trie, and mask all but the tokens that may come next."""

    def __init__(self, trie: Trie) -> None:
        self._trie = trie

    def __call__(self, output_ids: list[int], logits: torch.Tensor) -> torch.Tensor:
        trie, node, last = self._trie, 0, -1
        for token in output_ids:
            node = next((child for child in trie.children[node] if trie.tokens[child] == token), -1)
            if node < 0 or not trie.children[node]:
                last = token
                break
        # A sequence that is whole goes on with its last token until the longest one would be: nobody reads those.
        tokens = [last] if last >= 0 else [trie.tokens[child] for child in trie.children[node]]
        allowed = torch.tensor(tokens, device=logits.device)
        masked = torch.full_like(logits, -torch.inf)
        masked[allowed] = logits[allowed]
        return masked
