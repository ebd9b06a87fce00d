"""A trained baseline in a folder: `model.safetensors`, and `baseline.json`, which says what it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from llmgym.baselines.agents import DRRNAgent, SymbolicAgent, describe_training
from llmgym.baselines.drrn import DRRN, DRRNSettings
from llmgym.baselines.kinds import settings_class
from llmgym.baselines.symbolic_policy import SymbolicPolicy
from llmgym.baselines.symbolic_ppo import SymbolicPPOSettings
from llmgym.baselines.vocabulary import Vocabulary
from llmgym.errors import LLMGymError, RunError
from llmgym.settings import from_dict, to_dict

__all__ = ["SavedBaseline", "load_baseline", "save_baseline"]

FACTS, WEIGHTS = "baseline.json", "model.safetensors"


@dataclass(frozen=True)
class SavedBaseline:
    """What is written of a baseline beside its weights.

    Attributes:
        kind: "drrn" or "symbolic-ppo".
        env: id of the environment that it was trained on.
        env_settings: its keyword arguments.
        env_steps: how long.
        seed: of the training.
        num_actions: outputs of the network; 0 where it reads the actions.
        settings: how it was trained.
        vocabulary: the words it knows, in the order of their ids.
    """

    kind: str
    env: str
    env_settings: Mapping[str, Any]
    env_steps: int
    seed: int
    num_actions: int
    settings: DRRNSettings | SymbolicPPOSettings
    vocabulary: tuple[str, ...]


def save_baseline(path: Path, saved: SavedBaseline, weights: Mapping[str, Tensor]) -> None:
    """Write a baseline into a folder; one that is there already is replaced."""
    path.mkdir(parents=True, exist_ok=True)
    facts = {**vars(saved), "settings": to_dict(saved.settings), "env_settings": dict(saved.env_settings)}
    unfinished = path / f".{WEIGHTS}.tmp"
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, unfinished)
    unfinished.replace(path / WEIGHTS)
    unfinished = path / f".{FACTS}.tmp"
    unfinished.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    unfinished.replace(path / FACTS)


def load_baseline(path: Path | str) -> DRRNAgent | SymbolicAgent:
    """Make an agent of the baseline in a folder.

    Raises:
        RunError: there is none, or it is broken.
    """
    path = Path(path)
    try:
        facts: dict[str, Any] = json.loads((path / FACTS).read_text(encoding="utf-8"))
        settings = from_dict(settings_class(facts["kind"]), facts["settings"])
        weights = load_file(path / WEIGHTS)
        training = describe_training(facts)
        if isinstance(settings, DRRNSettings):
            network = DRRN(settings)
            network.load_state_dict(weights)
            vocabulary = Vocabulary(settings.max_words, facts["vocabulary"], is_open=False)
            return DRRNAgent(network.eval(), vocabulary, settings.temperature, training)
        policy = SymbolicPolicy(facts["num_actions"], settings.network)
        policy.load_state_dict(weights)
        vocabulary = Vocabulary(settings.network.max_words, facts["vocabulary"], is_open=False)
        return SymbolicAgent(policy.eval(), vocabulary, training)
    except (OSError, ValueError, KeyError, RuntimeError, LLMGymError) as error:
        raise RunError(
            f"Expected a trained baseline ({FACTS} and {WEIGHTS}) in {path}, found none that can be read: "
            f"{type(error).__name__}: {error}. Train one with `llmgym baseline`."
        ) from error
