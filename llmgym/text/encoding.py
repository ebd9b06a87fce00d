"""Encoding: text to token ids, without what a Hugging Face tokenizer does around it that prompts do not need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmgym.types import Tokenizer

__all__ = ["Encode", "text_encoder"]

Encode = Callable[[str], list[int]]
"""Text to token ids, special tokens neither added nor, where the tokenizer splits them, recognised."""


def text_encoder(tokenizer: Tokenizer) -> Encode:
    """Return what `tokenizer.encode(text, add_special_tokens=False)` does, for a prompt's many short texts.

    Where the tokenizer is transformers' own around the tokenizers library, that library is called by itself: more than
    half of the time goes into the wrapper (28 of 65 us a turn's text are the library's own). Other tokenizers are
    called as they are.
    """
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not _is_stock(tokenizer):
        return lambda text: tokenizer.encode(text, add_special_tokens=False)
    splits = bool(getattr(tokenizer, "split_special_tokens", False))

    def encode(text: str) -> list[int]:
        # Other calls of the same tokenizer leave their own settings behind.
        if backend.encode_special_tokens != splits or backend.truncation is not None or backend.padding is not None:
            return tokenizer.encode(text, add_special_tokens=False)
        ids: list[int] = backend.encode(text, add_special_tokens=False).ids
        return ids

    return encode


def _is_stock(tokenizer: Tokenizer) -> bool:
    """Tell whether encoding is what transformers' class does, and no subclass's own."""
    methods = [getattr(type(tokenizer), name, None) for name in ("encode", "_encode_plus")]
    return all(getattr(method, "__module__", "").startswith("transformers.tokenization_utils") for method in methods)
