"""Who learns: a language model with an adapter and heads, its updates and its checkpoints. Torch only, no engine.

The names load on first use: settings such as `LoraSettings` can be read where torch must not be loaded.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmgym.learner.folder import whole_folder
    from llmgym.learner.group import LearnerGroup
    from llmgym.learner.heads import HeadSpec, ValueHead, heads_for
    from llmgym.learner.learner import Learner
    from llmgym.learner.lora import LoraSettings
    from llmgym.learner.non_finite import NonFiniteError

__all__ = [
    "HeadSpec",
    "Learner",
    "LearnerGroup",
    "LoraSettings",
    "NonFiniteError",
    "ValueHead",
    "heads_for",
    "whole_folder",
]

_HOMES = {
    "HeadSpec": "heads",
    "Learner": "learner",
    "LearnerGroup": "group",
    "LoraSettings": "lora",
    "NonFiniteError": "non_finite",
    "ValueHead": "heads",
    "heads_for": "heads",
    "whole_folder": "folder",
}


def __getattr__(name: str) -> Any:
    """Load a public name from the file it lives in."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
