"""Heads of one's own: PPO with a second critic and an auxiliary loss, chosen in a recipe like any algorithm.

PYTHONPATH=examples llmgym train frozenlake --set algorithm.name=several_critics:CriticsPPO

The policy needs no other code for it: an algorithm that names `heads`, and what each of them reads, is given them.
With `--set learner.critic=separate` all three read the hidden states of a model of their own.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

import llmgym
from llmgym.algorithms import PPO, Outputs, Targets
from llmgym.algorithms.units import Reads
from llmgym.config import CloneSettings, CollectSettings, EvaluationSettings, RunConfig
from llmgym.learner.tiny import TinySettings


@dataclass(frozen=True)
class CriticsPPO:
    """PPO (Schulman et al. 2017), whose critic "value" reads where the prompt ends, and two heads more.

    Attributes:
        mean_coef: weight of the critic "mean_value", which reads the mean of the prompt's tokens.
        pays_coef: weight of foreseeing whether the episode will pay at all: an auxiliary loss, which shapes the model.
        epochs: how often an update goes through its batch.
        minibatch_turns: about how many turns a gradient step is taken on.
    """

    heads: ClassVar[Mapping[str, Reads]] = {"mean_value": "mean", "pays": "state"}

    mean_coef: float = 0.5
    pays_coef: float = 0.1
    epochs: int = 2
    minibatch_turns: int = 64

    def loss(self, outputs: Outputs, targets: Targets) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return PPO's loss with those of the two heads, means over turns, and metrics."""
        loss, metrics = PPO().loss(outputs, targets)
        mean_value = targets.mean((outputs.heads["mean_value"] - targets.returns).square())
        does_pay = (targets.returns > 0).float()
        pays = targets.mean(binary_cross_entropy_with_logits(outputs.heads["pays"], does_pay, reduction="none"))
        told = {"mean_value_loss": mean_value.detach(), "pays_loss": pays.detach()}
        return loss + self.mean_coef * mean_value + self.pays_coef * pays, {**metrics, **told}


def main(run_dir: str | None = None) -> float:
    """Train on FrozenLake, and return the share of held-out episodes that reach the goal."""
    config = RunConfig(
        env="llmgym/FrozenLake-v0",
        env_settings={"is_slippery": False, "max_episode_steps": 20},
        backend="transformers",
        updates=12,
        tiny=TinySettings(vocab_size=400, hidden_size=64, num_heads=2, intermediate_size=128),
        clone=CloneSettings(episodes=4, epochs=3),
        collect=CollectSettings(num_envs=16, steps_per_update=16),
        evaluation=EvaluationSettings(episodes=64, num_envs=32),
        algorithm={"name": f"{Path(__file__).stem}:CriticsPPO"},
    )
    with tempfile.TemporaryDirectory() as folder:
        rows = llmgym.train(config, run_dir or Path(folder) / "run").rows
    for row in rows:
        print(f"{row.name:8} success {row.success:.2f}")
    return rows[-1].success


if __name__ == "__main__":
    main(*sys.argv[1:2])
