"""The network of the symbolic baseline: sees a level as symbols, reads its mission, remembers, and acts.

No language model anywhere: symbols are embedded, the mission steers what is seen by feature-wise linear modulation
(FiLM, Perez et al. 2018, https://arxiv.org/abs/1709.07871), and a GRU remembers, as in the agents of BabyAI
(Chevalier-Boisvert et al. 2019, https://arxiv.org/abs/1810.08272), only smaller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llmgym.baselines.ranges import check_ranges
from llmgym.baselines.reader import WordReader, embed_words

__all__ = ["SIDE", "NetworkSettings", "SymbolicPolicy"]

_NUM_SYMBOLS = (16, 8, 4)
"""Room for minigrid's objects, colors and states."""
SIDE = 7
"""Cells of a view, in each direction."""


@dataclass(frozen=True)
class NetworkSettings:
    """How large the network is.

    Attributes:
        channels: of the embedded cells, and, twice as many, of the convolution after them.
        mission_size: width of a word's embedding and of a mission's vector.
        hidden_size: width of the memory.
        max_words: of missions, at most.
    """

    channels: int = 16
    mission_size: int = 64
    hidden_size: int = 128
    max_words: int = 256

    def __post_init__(self) -> None:
        check_ranges(self, at_least_one=("channels", "mission_size", "hidden_size", "max_words"))


class SymbolicPolicy(nn.Module):
    """Actor and critic over symbols, with a memory of the episode.

    Args:
        num_actions: of the environment.
        settings: how large.
    """

    def __init__(self, num_actions: int, settings: NetworkSettings) -> None:
        super().__init__()
        channels, mission, hidden = settings.channels, settings.mission_size, settings.hidden_size
        self.hidden_size = hidden
        self.mission_reader = WordReader(embed_words(settings.max_words, mission), mission)
        self.symbols = nn.ModuleList(nn.Embedding(number, channels) for number in _NUM_SYMBOLS)
        self.near_film = nn.Linear(mission, 2 * channels)
        self.conv = nn.Conv2d(channels, 2 * channels, 3)
        self.far_film = nn.Linear(mission, 4 * channels)
        self.flat = nn.Linear(2 * channels * (SIDE - 2) ** 2, hidden)
        self.memory = nn.GRUCell(hidden, hidden)
        self.actor = nn.Linear(hidden, num_actions)
        self.critic = nn.Linear(hidden, 1)
        for head, gain in ((self.actor, 0.01), (self.critic, 1.0)):
            nn.init.orthogonal_(head.weight, gain)
            nn.init.zeros_(head.bias)

    def read(self, missions: Sequence[tuple[int, ...]]) -> Tensor:
        """Return the vectors of missions, given as ids of words: float32 (B, mission_size)."""
        vectors: Tensor = self.mission_reader(missions)
        return vectors

    def see(self, images: Tensor, missions: Tensor) -> Tensor:
        """Return what is seen in the light of the mission: float32 (B, hidden_size).

        Args:
            images: uint8 (B, 7, 7, 3); minigrid's symbols.
            missions: float32 (B, mission_size).
        """
        cells = nn.functional.embedding(self._cell_ids(images), self._cell_table())
        scale, shift = self.near_film(missions)[:, None].chunk(2, dim=-1)
        near = torch.relu(cells * (1 + scale) + shift)
        maps = near.transpose(1, 2).reshape(len(images), -1, SIDE, SIDE)
        scale, shift = self.far_film(missions)[:, :, None, None].chunk(2, dim=1)
        far = torch.relu(self.conv(maps) * (1 + scale) + shift)
        return torch.relu(self.flat(far.flatten(1)))

    def remember(self, seen: Tensor, memory: Tensor, begins: Tensor) -> Tensor:
        """Return the memory after each of T steps: float32 (T, B, hidden_size).

        Args:
            seen: float32 (T, B, hidden_size).
            memory: float32 (B, hidden_size); before the first step.
            begins: bool (T, B); where an episode begins: its memory starts at 0, whatever came before.
        """
        # What does not depend on the memory is computed for all steps at once: a third of the time.
        cell, after = self.memory, []
        from_seen = nn.functional.linear(seen, cell.weight_ih, cell.bias_ih)
        for step, is_new in zip(from_seen, begins[:, :, None], strict=True):
            memory = memory.masked_fill(is_new, 0.0)
            from_memory = nn.functional.linear(memory, cell.weight_hh, cell.bias_hh)
            size = 2 * self.hidden_size
            reset, keep = torch.sigmoid(step[:, :size] + from_memory[:, :size]).chunk(2, dim=1)
            new = torch.tanh(step[:, size:] + reset * from_memory[:, size:])
            memory = torch.lerp(new, memory, keep)
            after.append(memory)
        return torch.stack(after)

    def answer(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities of actions, float32 (..., num_actions), and values, float32 (...)."""
        return torch.log_softmax(self.actor(memory), dim=-1), self.critic(memory).squeeze(-1)

    def _cell_ids(self, images: Tensor) -> Tensor:
        """Return one number for each cell's three symbols: int64 (B, 49)."""
        _, num_colors, num_states = _NUM_SYMBOLS
        symbols = images.flatten(1, 2).long()
        return (symbols[..., 0] * num_colors + symbols[..., 1]) * num_states + symbols[..., 2]

    def _cell_table(self) -> Tensor:
        """Return the embeddings of all cells there can be: sums of those of their symbols, float32 (512, channels)."""
        weights: list[Any] = [embedding.weight for embedding in self.symbols]
        kinds, colors, states = weights
        table: Tensor = (kinds[:, None, None] + colors[None, :, None] + states[None, None, :]).flatten(0, 2)
        return table
