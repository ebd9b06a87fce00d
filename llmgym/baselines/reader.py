"""Readers: a sequence in, one vector out, by a recurrent network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from llmgym.baselines.vocabulary import PADDING, pad

__all__ = ["Reader", "WordReader", "embed_words"]


class Reader(nn.Module):
    """Read vectors one by one with a GRU (Cho et al. 2014, https://arxiv.org/abs/1406.1078); keep its last state.

    Args:
        input_size: width of what is read.
        hidden_size: width of the state.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.gru = nn.GRU(input_size, hidden_size, batch_first=True)

    def forward(self, vectors: Tensor, lengths: Tensor, start: Tensor | None = None) -> Tensor:
        """Return the state after each sequence: float32 (B, hidden_size).

        Args:
            vectors: float32 (B, T, input_size).
            lengths: int64 (B,); of each sequence, at least 1. What stands behind it makes no difference.
            start: float32 (B, hidden_size); the state before it, 0 if None.
        """
        states, _ = self.gru(vectors, None if start is None else start[None])
        last: Tensor = states[torch.arange(len(lengths)), lengths - 1]
        return last


class WordReader(nn.Module):
    """Read texts word by word.

    Args:
        embedding: of words; readers may share one.
        hidden_size: width of a text's vector.
    """

    def __init__(self, embedding: nn.Embedding, hidden_size: int) -> None:
        super().__init__()
        self.embedding = embedding
        self.reader = Reader(embedding.embedding_dim, hidden_size)

    def forward(self, texts: Sequence[tuple[int, ...]]) -> Tensor:
        """Return the vector of each text, given as ids of words, at least one: float32 (B, hidden_size)."""
        word_ids, lengths = pad(texts)
        vectors: Tensor = self.reader(self.embedding(torch.from_numpy(word_ids)), torch.from_numpy(lengths))
        return vectors


def embed_words(num_words: int, size: int) -> nn.Embedding:
    """Make an embedding for a vocabulary, float32 (num_words, size); that of padding is 0."""
    return nn.Embedding(num_words, size, padding_idx=PADDING, dtype=torch.float32)
