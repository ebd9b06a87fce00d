"""An algorithm of one's own, from its equation to a trained policy.

python examples/own_algorithm.py [RUN_DIR]

Advantage-weighted regression (Peng et al. 2019, https://arxiv.org/abs/1910.00177): imitate what one did, the more the
better it went: -exp(A / beta) log pi. A class with a loss is all that is needed: its fields are settings, and its
advantages are estimated with the learner's critic, turn by turn.

On the command line, with this file where Python finds it:

PYTHONPATH=examples llmgym train frozenlake --set algorithm.name=own_algorithm:AWR --set algorithm.beta=0.2
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

import llmgym
from llmgym.algorithms import Outputs, Targets, register_algorithm
from llmgym.config import CloneSettings, CollectSettings, EvaluationSettings, RunConfig
from llmgym.learner.tiny import TinySettings


@dataclass(frozen=True)
class AWR:
    """Settings of advantage-weighted regression, and its loss.

    Attributes:
        beta: temperature of the weights, above 0; larger imitates good and bad more alike.
        max_weight: no turn counts more than this.
        epochs: how often an update goes through its batch.
        minibatch_turns: about how many turns a gradient step is taken on.
    """

    beta: float = 0.5
    max_weight: float = 20.0
    epochs: int = 2
    minibatch_turns: int = 64

    def loss(self, outputs: Outputs, targets: Targets) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the weighted regression and the critic's squared error, means over turns, and metrics."""
        weights = (targets.normalized_advantages / self.beta).exp().clamp(max=self.max_weight)
        policy = targets.mean(-weights * outputs.logprobs)
        value = targets.mean((outputs.heads["value"] - targets.returns).square())
        metrics = {"policy_loss": policy, "value_loss": value, "mean_weight": targets.mean(weights)}
        return policy + 0.5 * value, {name: metric.detach() for name, metric in metrics.items()}


register_algorithm("awr", AWR)


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
        algorithm={"name": "awr", "beta": 0.5},
    )
    with tempfile.TemporaryDirectory() as folder:
        rows = llmgym.train(config, run_dir or Path(folder) / "run").rows
    for row in rows:
        print(f"{row.name:8} success {row.success:.2f}")
    return rows[-1].success


if __name__ == "__main__":
    main(*sys.argv[1:2])
