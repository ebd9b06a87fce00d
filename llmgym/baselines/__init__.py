"""Agents that are no language model, and what they learn by: what a language model has to be better than.

The names load on first use, because they need torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmgym.baselines.agents import DRRNAgent, SymbolicAgent
    from llmgym.baselines.drrn import DRRNSettings
    from llmgym.baselines.folder import SavedBaseline, load_baseline, save_baseline
    from llmgym.baselines.symbolic_ppo import SymbolicPPOSettings

__all__ = [
    "DRRNAgent",
    "DRRNSettings",
    "SavedBaseline",
    "SymbolicAgent",
    "SymbolicPPOSettings",
    "load_baseline",
    "save_baseline",
]

_HOMES = {
    "DRRNAgent": "agents",
    "DRRNSettings": "drrn",
    "SavedBaseline": "folder",
    "SymbolicAgent": "agents",
    "SymbolicPPOSettings": "symbolic_ppo",
    "load_baseline": "folder",
    "save_baseline": "folder",
}


def __getattr__(name: str) -> Any:
    """Load a public name from the file it lives in."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
