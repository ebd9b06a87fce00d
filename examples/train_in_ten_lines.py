"""Train a language model in an environment, from Python: clone a few demonstrations, then PPO.

python examples/train_in_ten_lines.py runs/ten-lines
"""

import sys

import llmgym
from llmgym.config import CloneSettings, CollectSettings, EvaluationSettings, RunConfig

config = RunConfig(
    env="llmgym/BabyAI-GoToObjS4-v0",
    updates=5,
    clone=CloneSettings(episodes=20),
    collect=CollectSettings(num_envs=8, steps_per_update=16),
    evaluation=EvaluationSettings(episodes=32),
)
result = llmgym.train(config, sys.argv[1])
for row in result.rows:
    print(f"{row.name:8} success {row.success:.2f} [{row.low:.2f}, {row.high:.2f}]")
