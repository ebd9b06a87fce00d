"""Drive a language model with a loop of your own: `ScoreActions` tells how likely each action is, you sample.

python examples/own_loop.py MODEL        (a folder or a hub id; without one, every action is equally likely)
"""

import sys

import gymnasium as gym
import numpy as np

import llmgym
from llmgym.text import ScoreActions

model = sys.argv[1] if len(sys.argv) > 1 else None
generator = np.random.default_rng(0)
with llmgym.load_engine(model or "", backend="vllm" if model else "scripted") as engine:
    venv = ScoreActions(gym.make_vec("llmgym/BabyAI-GoToObjS4-v0", num_envs=4), engine)
    _, infos = venv.reset(seed=0)
    for step in range(10):
        probabilities = np.exp(infos["action_logprobs"].astype(np.float64))
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        actions = np.array([generator.choice(len(row), p=row) for row in probabilities])
        _, rewards, _, _, infos = venv.step(actions)
        print(step, actions, rewards)
    venv.close()
