"""PPO on symbols: collect steps, estimate advantages, and improve the policy, again and again.

The loss, the advantages and their settings are those that language models are trained with here
(`llmgym.algorithms`), so that only who acts differs. Recurrence is as in CleanRL's recurrent PPO
(https://docs.cleanrl.dev): minibatches are whole environments, and their memories are computed anew from the one that
the stretch began with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from llmgym.algorithms import PPO, Outputs, Targets
from llmgym.algorithms.returns import ReturnSettings
from llmgym.baselines.episodes import EpisodeStream
from llmgym.baselines.ranges import check_ranges
from llmgym.baselines.symbolic_collector import Experience, SymbolicCollector, estimate_advantages
from llmgym.baselines.symbolic_policy import NetworkSettings, SymbolicPolicy
from llmgym.baselines.vocabulary import Vocabulary

__all__ = ["SymbolicPPO", "SymbolicPPOSettings"]


@dataclass(frozen=True)
class SymbolicPPOSettings:
    """How the symbolic baseline learns.

    Attributes:
        num_envs: environments stepped together.
        steps_per_update: steps of every environment between two updates, through which gradients go back in time.
        learning_rate: of Adam.
        final_learning_rate: share of it that is left at the end; it falls in a straight line.
        max_grad_norm: gradients above this norm are scaled down to it.
        network: how large the network is.
        returns: how rewards become advantages.
        ppo: the loss.
    """

    num_envs: int = 64
    steps_per_update: int = 40
    learning_rate: float = 1e-3
    final_learning_rate: float = 0.1
    max_grad_norm: float = 0.5
    network: NetworkSettings = field(default_factory=NetworkSettings)
    returns: ReturnSettings = field(default_factory=ReturnSettings)
    ppo: PPO = field(default_factory=lambda: PPO(minibatch_turns=640))

    def __post_init__(self) -> None:
        check_ranges(self, at_least_one=("num_envs", "steps_per_update"), above_zero=("learning_rate", "max_grad_norm"))


class SymbolicPPO:
    """Collects with a policy, and improves it.

    Attributes:
        policy: the network.
        vocabulary: the words of missions.
        num_env_steps: taken so far, by all environments together.
        num_actions: of each environment.
    """

    def __init__(self, stream: EpisodeStream, num_actions: int, settings: SymbolicPPOSettings, *, seed: int) -> None:
        """Begin with random weights.

        Args:
            stream: symbolic environments.
            num_actions: of each.
            settings: how to learn.
            seed: of weights, actions and minibatches.
        """
        self.settings = settings
        self.num_env_steps = 0
        self.vocabulary = Vocabulary(settings.network.max_words)
        self.num_actions = num_actions
        self._stream = stream
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.policy = SymbolicPolicy(num_actions, settings.network)
        self._generator = torch.Generator().manual_seed(seed)
        self._collector = SymbolicCollector(self.policy, self.vocabulary, stream, self._generator)
        self._optimizer = torch.optim.Adam(self.policy.parameters(), lr=settings.learning_rate, eps=1e-5)

    def update(self, progress: float) -> dict[str, float]:
        """Collect and learn once, and return metrics.

        Args:
            progress: share of the training that is done, 0 to 1.
        """
        settings = self.settings
        share = settings.final_learning_rate + (1 - settings.final_learning_rate) * (1 - progress)
        for group in self._optimizer.param_groups:
            group["lr"] = settings.learning_rate * share
        experience = self._collector.collect(settings.steps_per_update)
        self.num_env_steps += experience.actions.numel()
        return self.learn(experience)

    def told(self) -> dict[str, float]:
        """Return how the episodes went that have ended since the last answer."""
        return self._stream.told()

    def learn(self, experience: Experience) -> dict[str, float]:
        """Go through the experience as often as PPO says, and return metrics, means over all of it."""
        advantages, returns = estimate_advantages(experience, self.settings.returns)
        normalized = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        sums: dict[str, float] = {}
        num_epochs = 0
        for _ in range(self.settings.ppo.epochs):
            epoch: dict[str, float] = {}
            for rows in self._minibatches():
                num_turns = len(rows) * len(advantages)
                ones = advantages.new_ones(num_turns)
                targets = Targets(
                    actions=experience.actions[:, rows].flatten(),
                    behaviour_logprobs=experience.logprobs[:, rows].flatten(),
                    advantages=advantages[:, rows].flatten(),
                    normalized_advantages=normalized[:, rows].flatten(),
                    returns=returns[:, rows].flatten(),
                    values=experience.values[:, rows].flatten(),
                    num_units=num_turns,
                    num_draws=ones,
                    trajectory_units=ones,
                    num_trajectories=num_turns,
                )
                for name, metric in self._improve(experience, rows, targets).items():
                    epoch[name] = epoch.get(name, 0.0) + float(metric) * len(rows) / self._stream.num_envs
            num_epochs += 1
            for name, mean in epoch.items():
                sums[name] = sums.get(name, 0.0) + mean
            if self.settings.ppo.is_done(epoch):
                break
        return {name: total / num_epochs for name, total in sums.items()}

    def _improve(self, experience: Experience, rows: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Take a gradient step, and return metrics."""
        loss, metrics = self.settings.ppo.loss(self.evaluate(experience, rows), targets)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.settings.max_grad_norm)
        self._optimizer.step()
        return {"loss": loss.detach(), "grad_norm": norm, **metrics}

    def evaluate(self, experience: Experience, rows: Tensor) -> Outputs:
        """Return what the policy says now of the steps of some environments, T * len(rows) of them, step by step.

        Args:
            experience: T steps.
            rows: int64 (len(rows),); which environments.
        """
        numbers = experience.mission_numbers[:, rows]
        known, places = np.unique(numbers.numpy(), return_inverse=True)
        missions = self.policy.read([experience.missions[number] for number in known.tolist()])
        seen = self.policy.see(experience.images[:, rows].flatten(0, 1), missions[torch.from_numpy(places.ravel())])
        memory = self.policy.remember(
            seen.view(*numbers.shape, -1), experience.memory[rows], experience.begins[:, rows]
        )
        action_logprobs, values = self.policy.answer(memory.flatten(0, 1))
        chosen = experience.actions[:, rows].flatten()
        entropies = -(action_logprobs.exp() * action_logprobs).sum(dim=-1)
        logprobs = action_logprobs.gather(1, chosen[:, None])[:, 0]
        return Outputs(logprobs, action_logprobs, entropies, {"value": values})

    def _minibatches(self) -> Iterator[Tensor]:
        """Yield the environments of each minibatch of an epoch."""
        size = max(1, self.settings.ppo.minibatch_turns // self.settings.steps_per_update)
        order = torch.randperm(self._stream.num_envs, generator=self._generator)
        for first in range(0, self._stream.num_envs, size):
            yield order[first : first + size]
