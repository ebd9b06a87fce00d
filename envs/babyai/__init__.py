"""BabyAI in text: its sentences, its levels, its expert. The names here load no minigrid."""

from llmgym.envs.babyai.grammar import describe
from llmgym.envs.babyai.levels import KINDS, LEVELS, PAPER_LEVELS
from llmgym.envs.babyai.mission_grammar import translate_mission

__all__ = ["KINDS", "LEVELS", "PAPER_LEVELS", "describe", "translate_mission"]
