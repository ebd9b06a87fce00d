"""BabyAI in text: its sentences, its levels, its expert. The names here load no minigrid."""

from llmgym.envs.babyai.grammar import describe
from llmgym.envs.babyai.levels import LEVELS

__all__ = ["LEVELS", "describe"]
