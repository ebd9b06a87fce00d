"""Learning values of texts: act, remember, and learn from what is remembered, again and again."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from llmgym.baselines.drrn import DRRN, DRRNSettings, td_loss
from llmgym.baselines.episodes import EpisodeStream
from llmgym.baselines.replay import ReplayMemory, State, Transition, read_state
from llmgym.baselines.vocabulary import Vocabulary

__all__ = ["DRRNLearner"]

STEPS_PER_ROUND = 32
"""Steps of every environment between two rows of metrics."""


class DRRNLearner:
    """Acts by softmax over values, and improves the values by Q-learning with replay (algorithm 1 of the paper).

    Attributes:
        policy: the network.
        vocabulary: the words that were met.
        num_env_steps: taken so far, by all environments together.
        num_actions: 0, because the network reads the actions instead of numbering them.
    """

    num_actions = 0

    def __init__(self, stream: EpisodeStream, settings: DRRNSettings, *, seed: int) -> None:
        """Begin with random weights.

        Args:
            stream: text environments.
            settings: how to learn.
            seed: of weights, actions and batches.
        """
        self.settings = settings
        self.num_env_steps = 0
        self.vocabulary = Vocabulary(settings.max_words)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.policy = DRRN(settings)
        self._target = copy.deepcopy(self.policy) if settings.target_every else self.policy
        self._optimizer = torch.optim.Adam(self.policy.parameters(), lr=settings.learning_rate)
        self._stream = stream
        self._replay = ReplayMemory(settings.replay_capacity)
        self._generator = torch.Generator().manual_seed(seed)
        self._draws = np.random.default_rng(seed)
        self._num_updates = 0
        self._states = self._read(stream.observations, stream.actions)

    def update(self, progress: float) -> dict[str, float]:
        """Take some steps in every environment, learn along the way, and return metrics.

        Args:
            progress: share of the training that is done; nothing depends on it.
        """
        del progress
        losses: list[float] = []
        entropies: list[float] = []
        for _ in range(STEPS_PER_ROUND):
            entropies.append(self._step())
            while (self._num_updates + 1) * self.settings.env_steps_per_update <= self.num_env_steps:
                self._num_updates += 1
                if len(self._replay) >= self.settings.batch_size:
                    losses.append(self._learn())
        learned = {"loss": float(np.mean(losses))} if losses else {}
        return {**learned, "entropy": float(np.mean(entropies)), "transitions": len(self._replay)}

    def told(self) -> dict[str, float]:
        """Return how the episodes went that have ended since the last answer."""
        return self._stream.told()

    @torch.no_grad()
    def _step(self) -> float:
        """Take a step in every environment, remember it, and return the mean entropy of the draws, in nats."""
        logprobs = torch.log_softmax(self.policy(self._states) / self.settings.temperature, dim=1)
        probabilities = logprobs.exp()
        chosen = torch.multinomial(probabilities, 1, generator=self._generator)[:, 0]
        step = self._stream.step(chosen.numpy())
        after = self._read(step.observations, step.actions)
        for row, action in enumerate(chosen.tolist()):
            self._replay.add(
                Transition(self._states[row], action, float(step.rewards[row]), after[row], bool(step.terminated[row]))
            )
        begun = np.flatnonzero(step.is_over).tolist()
        if begun:
            fresh = self._read(self._stream.observations, self._stream.actions)
            for row in begun:
                after[row] = fresh[row]
        self._states = after
        self.num_env_steps += self._stream.num_envs
        return float(-(probabilities * logprobs.nan_to_num(neginf=0.0)).sum(dim=1).mean())

    def _learn(self) -> float:
        """Take a gradient step, and return the loss."""
        if self.settings.target_every and self._num_updates % self.settings.target_every == 0:
            self._target.load_state_dict(self.policy.state_dict())
        batch = self._replay.sample(self.settings.batch_size, self._draws)
        loss: Tensor = td_loss(self.policy, self._target, batch, self.settings)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.settings.max_grad_norm)
        self._optimizer.step()
        return float(loss.detach())

    def _read(self, observations: Mapping[str, Sequence[str]], actions: Sequence[tuple[str, ...]]) -> list[State]:
        """Return what each environment shows."""
        shown = zip(observations["mission"], observations["text"], actions, strict=True)
        return [read_state(self.vocabulary, mission, text, known) for mission, text, known in shown]
