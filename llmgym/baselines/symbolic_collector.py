"""Experience on symbols: steps of many environments, with the policy's own memory of each episode."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llmgym.algorithms import advantages_and_returns
from llmgym.algorithms.returns import ReturnSettings
from llmgym.baselines.episodes import EpisodeStream
from llmgym.baselines.symbolic_policy import SIDE, SymbolicPolicy
from llmgym.baselines.vocabulary import Vocabulary

__all__ = ["Experience", "SymbolicCollector", "estimate_advantages"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Experience:
    """T steps of N environments.

    Attributes:
        images: uint8 (T, N, 7, 7, 3).
        missions: the different missions, as ids of words.
        mission_numbers: int64 (T, N); indices into `missions`.
        begins: bool (T, N); where an episode begins.
        memory: float32 (N, hidden_size); before the first step.
        actions: int64 (T, N).
        logprobs: float32 (T, N); of the actions, when they were drawn.
        values: float32 (T, N); when the actions were drawn.
        rewards: float32 (T, N); unscaled.
        ends: bool (T, N); where an episode ended by the step.
        next_values: float32 (T, N); value of the last state of an episode that was cut off, or of the state after the
            last step; 0 elsewhere.
    """

    images: Tensor
    missions: tuple[tuple[int, ...], ...]
    mission_numbers: Tensor
    begins: Tensor
    memory: Tensor
    actions: Tensor
    logprobs: Tensor
    values: Tensor
    rewards: Tensor
    ends: Tensor
    next_values: Tensor


class SymbolicCollector:
    """Lets a policy act, and keeps what happens.

    Args:
        policy: acts.
        vocabulary: of missions.
        stream: symbolic environments.
        generator: of the actions.
    """

    def __init__(
        self, policy: SymbolicPolicy, vocabulary: Vocabulary, stream: EpisodeStream, generator: torch.Generator
    ) -> None:
        self._policy = policy
        self._vocabulary = vocabulary
        self._stream = stream
        self._generator = generator
        self._memory = torch.zeros(stream.num_envs, policy.hidden_size)
        self._vectors = torch.zeros(0)

    @torch.no_grad()
    def collect(self, num_steps: int) -> Experience:
        """Take num_steps steps in every environment; unfinished episodes go on in the next call."""
        stream = self._stream
        experience = _empty(num_steps, stream.num_envs, self._memory)
        missions: dict[str, int] = {}
        # The policy has learned since the last call: every mission is read anew.
        self._vectors = self._read(np.arange(stream.num_envs))
        for step in range(num_steps):
            numbers = [missions.setdefault(text, len(missions)) for text in stream.observations["mission"]]
            experience.mission_numbers[step] = torch.tensor(numbers)
            self._step(experience, step)
        going_on = np.flatnonzero(~stream.begins)
        experience.next_values[-1, going_on] = self._values(stream.observations["image"], going_on)
        return replace(experience, missions=tuple(self._vocabulary.encode(text) for text in missions))

    def _step(self, experience: Experience, step: int) -> None:
        """Take a step in every environment, and write it down."""
        stream, policy = self._stream, self._policy
        images, begins = experience.images[step], experience.begins[step]
        images[:] = torch.from_numpy(stream.observations["image"])
        begins[:] = torch.from_numpy(stream.begins)
        self._memory = policy.remember(policy.see(images, self._vectors)[None], self._memory, begins[None])[0]
        logprobs, experience.values[step] = policy.answer(self._memory)
        actions = torch.multinomial(logprobs.exp(), 1, generator=self._generator)
        experience.actions[step] = actions[:, 0]
        experience.logprobs[step] = logprobs.gather(1, actions)[:, 0]
        outcome = stream.step(actions[:, 0].numpy())
        experience.rewards[step] = torch.from_numpy(outcome.rewards)
        experience.ends[step] = torch.from_numpy(outcome.is_over)
        cut = np.flatnonzero(outcome.truncated & ~outcome.terminated)
        experience.next_values[step, cut] = self._values(outcome.observations["image"], cut)
        begun = np.flatnonzero(outcome.is_over)
        if len(begun):
            self._vectors[begun] = self._read(begun)

    def _read(self, rows: Ints) -> Tensor:
        """Return the vectors of the missions of some environments."""
        texts = self._stream.observations["mission"]
        return self._policy.read([self._vocabulary.encode(texts[row]) for row in rows.tolist()])

    def _values(self, images: npt.NDArray[np.uint8], rows: Ints) -> Tensor:
        """Return the values of what some environments show, where nothing has been done about it yet."""
        if not len(rows):
            return torch.zeros(0)
        seen = self._policy.see(torch.from_numpy(images[rows]), self._vectors[rows])
        no_begins = torch.zeros(1, len(rows), dtype=torch.bool)
        return self._policy.answer(self._policy.remember(seen[None], self._memory[rows], no_begins)[0])[1]


def estimate_advantages(experience: Experience, settings: ReturnSettings) -> tuple[Tensor, Tensor]:
    """Estimate advantages and returns of every stretch of an episode: float32 (T, N) each.

    Where an episode was cut off, or goes on after the last step, the value of what follows counts.
    """
    rewards = experience.rewards.numpy() * settings.reward_scale
    values, next_values = experience.values.numpy(), experience.next_values.numpy()
    advantages, returns = np.zeros_like(values), np.zeros_like(values)
    for row in range(values.shape[1]):
        first = 0
        for last in [*np.flatnonzero(experience.ends[:-1, row].numpy()).tolist(), len(values) - 1]:
            stretch = slice(first, last + 1)
            advantages[stretch, row], returns[stretch, row] = advantages_and_returns(
                rewards[stretch, row].tolist(),
                values[stretch, row],
                float(next_values[last, row]),
                gamma=settings.gamma,
                lam=settings.lam,
            )
            first = last + 1
    return torch.from_numpy(advantages), torch.from_numpy(returns)


def _empty(num_steps: int, num_envs: int, memory: Tensor) -> Experience:
    """Make room for steps."""
    shape = (num_steps, num_envs)
    return Experience(
        images=torch.zeros(*shape, SIDE, SIDE, 3, dtype=torch.uint8),
        missions=(),
        mission_numbers=torch.zeros(shape, dtype=torch.int64),
        begins=torch.zeros(shape, dtype=torch.bool),
        memory=memory,
        actions=torch.zeros(shape, dtype=torch.int64),
        logprobs=torch.zeros(shape),
        values=torch.zeros(shape),
        rewards=torch.zeros(shape),
        ends=torch.zeros(shape, dtype=torch.bool),
        next_values=torch.zeros(shape),
    )
