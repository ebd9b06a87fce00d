"""The deep reinforcement relevance network (He et al. 2016, https://arxiv.org/abs/1511.04636): values of texts.

A state's text and an action's text are read apart, and a small network tells how well they go together: equation 3,
Q(s, a) = g(h_s, h_a). Any number of actions, whatever they say, have a value. Differences from the paper: texts are
read by GRUs, not as bags of words, as in its successors for text games and in the GLAM paper; an observation's
sentences are read word by word, each once, and then the observation sentence by sentence, starting from what the
mission says; and g is one hidden layer, or the paper's inner product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from llmgym.baselines.ranges import check_ranges
from llmgym.baselines.reader import Reader, WordReader, embed_words
from llmgym.baselines.replay import State, Transition, Words
from llmgym.baselines.vocabulary import pad
from llmgym.errors import ConfigError, LearnerError

__all__ = ["DRRN", "DRRNSettings", "td_loss", "td_targets"]


@dataclass(frozen=True)
class DRRNSettings:
    """How the text baseline learns.

    Attributes:
        num_envs: environments stepped together.
        env_steps_per_update: steps, of all environments together, to a gradient step; fewer learns more from each.
            The code of the GLAM paper takes 128.
        batch_size: transitions of a gradient step.
        replay_capacity: newest transitions that are learned from.
        learning_rate: of Adam.
        max_grad_norm: gradients above this norm are scaled down to it.
        gamma: discount a step, from 0 to 1; larger looks further ahead.
        reward_scale: multiplies every reward; against the temperature, it decides how greedy the agent becomes.
        temperature: of the softmax over values that actions are drawn from, above 0; larger explores more.
        target_every: gradient steps between two copies of the network that values of next states are taken from; 0
            takes them from the network itself, as the papers do.
        interaction: "mlp", a hidden layer over both vectors, or "dot", the paper's inner product.
        hidden_size: width of embeddings and of all vectors.
        max_words: of the environment, at most.
    """

    num_envs: int = 32
    env_steps_per_update: int = 16
    batch_size: int = 64
    replay_capacity: int = 200_000
    learning_rate: float = 1e-3
    max_grad_norm: float = 5.0
    gamma: float = 0.9
    reward_scale: float = 20.0
    temperature: float = 1.0
    target_every: int = 0
    interaction: Literal["mlp", "dot"] = "mlp"
    hidden_size: int = 128
    max_words: int = 1024

    def __post_init__(self) -> None:
        counts = ("num_envs", "env_steps_per_update", "batch_size", "replay_capacity", "hidden_size", "max_words")
        check_ranges(self, at_least_one=counts, above_zero=("learning_rate", "max_grad_norm", "temperature"))
        if self.replay_capacity < self.batch_size:
            raise ConfigError(
                f"Expected replay_capacity of at least batch_size ({self.batch_size}), found {self.replay_capacity}. "
                "Change one of them."
            )


class DRRN(nn.Module):
    """The network.

    Args:
        settings: how large.
    """

    def __init__(self, settings: DRRNSettings) -> None:
        super().__init__()
        size = settings.hidden_size
        self.embedding = embed_words(settings.max_words, size)
        self.mission_reader = WordReader(self.embedding, size)
        self.sentence_reader = WordReader(self.embedding, size)
        self.text_reader = Reader(size, size)
        self.action_reader = WordReader(self.embedding, size)
        self.is_dot = settings.interaction == "dot"
        self.from_state = nn.Linear(size, size)
        self.from_action = nn.Linear(size, size)
        self.score = nn.Linear(size, 1)

    def forward(self, states: Sequence[State]) -> Tensor:
        """Return the value of every candidate: float32 (B, most actions), -inf where a state has fewer."""
        known, numbers = _number([action for state in states for action in state.actions])
        counts = [len(state.actions) for state in states]
        values = self.interact(
            self.read_states(states).repeat_interleave(torch.tensor(counts), dim=0),
            self.action_reader(known)[numbers],
        )
        table = torch.full((len(states), max(counts)), -torch.inf)
        return table.masked_scatter(torch.arange(max(counts)) < torch.tensor(counts)[:, None], values)

    def value(self, states: Sequence[State], actions: Sequence[int]) -> Tensor:
        """Return the value of one candidate of each state, by its index: float32 (B,)."""
        known, numbers = _number([state.actions[action] for state, action in zip(states, actions, strict=True)])
        return self.interact(self.read_states(states), self.action_reader(known)[numbers])

    def read_states(self, states: Sequence[State]) -> Tensor:
        """Return h_s: float32 (B, hidden_size)."""
        missions, mission_numbers = _number([state.mission for state in states])
        sentences, numbers = _number([sentence for state in states for sentence in state.sentences])
        ends = np.cumsum([len(state.sentences) for state in states]).tolist()
        told = [tuple(numbers[start:end].tolist()) for start, end in zip([0, *ends], ends, strict=False)]
        places, lengths = pad(told)
        vectors: Tensor = self.text_reader(
            self.sentence_reader(sentences)[torch.from_numpy(places)],
            torch.from_numpy(lengths),
            start=self.mission_reader(missions)[mission_numbers],
        )
        return vectors

    def interact(self, states: Tensor, actions: Tensor) -> Tensor:
        """Return g of vectors, pair by pair: float32 (B,), from float32 (B, hidden_size) twice."""
        if self.is_dot:
            return (torch.relu(self.from_state(states)) * torch.relu(self.from_action(actions))).sum(dim=-1)
        hidden = torch.relu(self.from_state(states) + self.from_action(actions))
        scores: Tensor = self.score(hidden)
        return scores.squeeze(-1)


def td_targets(rewards: Tensor, next_values: Tensor, terminated: Tensor, gamma: float) -> Tensor:
    """Return what values should be: r + gamma * max_a Q(s', a), equation 5, and r where nothing is to come.

    An episode that a limit cut off would have gone on: the value of its last state counts. The code of the GLAM paper
    takes it for an end.

    Args:
        rewards: float32 (B,).
        next_values: float32 (B, most actions); of each candidate of the next state, -inf where there is none.
        terminated: bool (B,).
        gamma: discount a step.

    Returns:
        float32 (B,).
    """
    return rewards + gamma * next_values.amax(dim=1).masked_fill(terminated, 0.0)


def td_loss(network: DRRN, target: DRRN, batch: Sequence[Transition], settings: DRRNSettings) -> Tensor:
    """Return the mean Huber loss of the values of what was done, a scalar; the paper squares the error.

    Args:
        network: learns.
        target: tells the values of next states; the network itself, or an older copy.
        batch: transitions.
        settings: gamma and reward_scale.

    Raises:
        LearnerError: a state has no action, and its episode goes on.
    """
    for one in batch:
        if not (one.terminated or one.next_state.actions):
            raise LearnerError("Expected candidates in every state of an episode that goes on, got none in one.")
    rewards = torch.tensor([one.reward for one in batch], dtype=torch.float32) * settings.reward_scale
    terminated = torch.tensor([one.terminated for one in batch])
    going_on = [one.next_state for one in batch if not one.terminated]
    next_values = torch.zeros(len(batch), 1)
    if going_on:
        with torch.no_grad():
            values = target(going_on)
        next_values = torch.zeros(len(batch), values.shape[1])
        next_values[~terminated] = values
    targets = td_targets(rewards, next_values, terminated, settings.gamma)
    values = network.value([one.state for one in batch], [one.action for one in batch])
    return nn.functional.smooth_l1_loss(values, targets)


def _number(texts: Sequence[Words]) -> tuple[list[Words], Tensor]:
    """Return the different texts, and which of them each one is, int64 (B,): none is read twice."""
    places: dict[Words, int] = {}
    numbers = [places.setdefault(text, len(places)) for text in texts]
    return list(places), torch.tensor(numbers)
