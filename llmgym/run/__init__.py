"""The only place where the layers meet: train, evaluate, play. Knows no terminal."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmgym.run.episode import PlayStep, play
    from llmgym.run.evaluation import evaluate
    from llmgym.run.report import Reporter
    from llmgym.run.results import EvalResult, EvalRow, TrainResult
    from llmgym.run.training import train

__all__ = ["EvalResult", "EvalRow", "PlayStep", "Reporter", "TrainResult", "evaluate", "play", "train"]

_HOMES = {
    "EvalResult": "results",
    "EvalRow": "results",
    "PlayStep": "episode",
    "Reporter": "report",
    "TrainResult": "results",
    "evaluate": "evaluation",
    "play": "episode",
    "train": "training",
}


def __getattr__(name: str) -> Any:
    """Load a public name from the file it lives in: what is not asked for is not imported."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
