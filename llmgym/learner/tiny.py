"""The tiny model: a Llama of about a million parameters and its tokenizer, made from the environments' own text.

Nothing is downloaded. The weights are random; cloning and reinforcement learning do the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["TinySettings", "build_tiny_model", "build_tokenizer"]

EOS = "<|endoftext|>"


@dataclass(frozen=True)
class TinySettings:
    """The size of the tiny model.

    Attributes:
        vocab_size: entries of the tokenizer at most; the 256 bytes are always among them.
        hidden_size: width of the residual stream.
        num_layers: transformer blocks.
        num_heads: attention heads of a block.
        intermediate_size: width of the feed-forward layers.
        max_context_tokens: longest prompt plus answer.
    """

    vocab_size: int = 1000
    hidden_size: int = 192
    num_layers: int = 2
    num_heads: int = 6
    intermediate_size: int = 512
    max_context_tokens: int = 2048


def build_tokenizer(texts: Iterable[str], phrases: Sequence[str], vocab_size: int) -> Any:
    """Train a byte-level BPE tokenizer (any text can be written: what was not seen falls back to bytes).

    Args:
        texts: what to learn merges from.
        phrases: texts that become one entry each, as they stand: an environment's actions and fixed wordings.
        vocab_size: entries at most, bytes and phrases included; few texts may fill fewer.

    Returns:
        a transformers tokenizer.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(phrases),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[EOS],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in phrases])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=EOS, pad_token=EOS, clean_up_tokenization_spaces=False
    )


def build_tiny_model(
    folder: Path, texts: Iterable[str], phrases: Sequence[str], settings: TinySettings, seed: int
) -> None:
    """Write a tokenizer and a randomly initialised Llama (tied embeddings, fp32) into a folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = build_tokenizer(texts, phrases, settings.vocab_size)
    config = LlamaConfig(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.num_layers,
        num_attention_heads=settings.num_heads,
        num_key_value_heads=settings.num_heads,
        max_position_embeddings=settings.max_context_tokens,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
