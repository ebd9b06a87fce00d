"""PPO on BabyAI-Text in a loop you can read: all weights, a LoRA adapter, or an adapter over weights of 4 bits.

python examples/ppo_babyai.py [lora | 4bit] [MODEL]     (a folder or a hub id; without one, a small model is built)
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

import llmgym
from llmgym.algorithms import PPO
from llmgym.learner import Learner, LoraSettings
from llmgym.learner.tiny import TinySettings, build_tiny_model
from llmgym.rollout.batch import ReturnSettings, make_batch
from llmgym.rollout.collector import Collector
from llmgym.text import PromptSettings
from llmgym.types import Acting

ENV = "llmgym/BabyAI-GoToObjS4-v0"
SETTINGS = TinySettings(vocab_size=400, hidden_size=64, num_heads=2, intermediate_size=128)
WEIGHTS = ("all", "lora", "4bit")


def build_model(folder: Path) -> None:
    """Write a small Llama whose tokenizer knows the words of the environment."""
    env = gym.make(ENV)
    states = [env.reset(seed=seed) for seed in range(50)]
    texts = [
        f"Goal: {seen['mission']}\nObservation: {seen['text']}\nAction: {info['actions']}" for seen, info in states
    ]
    build_tiny_model(folder, texts, [], SETTINGS, seed=0)


def train(model: str, weights: str, num_updates: int, num_steps: int) -> list[dict[str, float]]:
    """Collect turns, estimate advantages, update, and swap the new weights into the engine, again and again."""
    is_packed = weights == "4bit"
    learner = Learner(
        model,
        lora=None if weights == "all" else LoraSettings(rank=16, alpha=32.0, targets=("q_proj", "v_proj")),
        load_in_4bit=is_packed,
        algorithm=PPO(epochs=4, minibatch_turns=64),
        learning_rate=1e-3,
        seed=0,
    )
    venv = gym.make_vec(ENV, num_envs=8, autoreset_mode=AutoresetMode.DISABLED)
    history = []
    with llmgym.load_engine(model, backend="transformers", load_in_4bit=is_packed) as engine:
        collector = Collector(
            venv,
            engine,
            prompt=PromptSettings(),
            acting=Acting(),
            seed=0,
            episode_seed=lambda env_index, episode: 1000 * env_index + episode,
        )
        for update in range(1, num_updates + 1):
            trajectories = collector.collect(num_steps)
            batch = make_batch(trajectories, learner.values(trajectories), ReturnSettings(reward_scale=20.0))
            metrics = {**learner.update(batch), **learner.publish(engine)}
            metrics["reward"] = float(np.mean([turn.reward for turn in batch.turns]))
            history.append(metrics)
            shown = ", ".join(f"{name} {metrics[name]:.4f}" for name in ("reward", "entropy", "behaviour_gap"))
            print(f"update {update}: {shown}")
    learner.close()
    venv.close()
    return history


def main(
    weights: str = "all", model: str | None = None, num_updates: int = 3, num_steps: int = 16
) -> list[dict[str, float]]:
    """Train, and return the metrics of each update."""
    if weights not in WEIGHTS:
        raise SystemExit(f"Expected the weights to learn among {', '.join(WEIGHTS)}, got {weights}.")
    if model is not None:
        return train(model, weights, num_updates, num_steps)
    with tempfile.TemporaryDirectory() as folder:
        build_model(Path(folder))
        return train(folder, weights, num_updates, num_steps)


if __name__ == "__main__":
    main(*sys.argv[1:3])
