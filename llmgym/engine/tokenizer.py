"""The tokenizer of a model, as every engine reads text: what looks like a special token in a text is only text."""

from __future__ import annotations

from typing import Any

from llmgym.errors import EngineError

__all__ = ["load_tokenizer"]


def load_tokenizer(model: str, *, reads_special_tokens: bool = False) -> Any:
    """Load the tokenizer of a model folder or hub id.

    Args:
        reads_special_tokens: whether "<|im_end|>" and the like, inside a text, become the token of that name. An
            environment or a user who can write into a prompt can then end a turn, or begin another's.

    Raises:
        EngineError: there is no tokenizer.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model, split_special_tokens=not reads_special_tokens)
    except (OSError, ValueError) as error:
        raise EngineError(f"transformers cannot load a tokenizer from {model!r}: {error}") from error
