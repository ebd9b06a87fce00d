"""Lamorel's interface (https://github.com/flowersteam/lamorel), answered by `llmgym.host`.

A Lamorel script runs after changing its import line, as ``python main.py``, without a launcher:

    from llmgym.compat.lamorel import BaseModelInitializer, BaseModuleFunction, BaseUpdater, Caller, lamorel_init

The interface is that of Lamorel's main branch with the additions of its branch v0.3; the configuration may be written
for either. `load_config` reads Lamorel's YAML where Hydra is not wanted.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmgym.compat.lamorel.caller import Caller
    from llmgym.compat.lamorel.config import ConfigNode, load_config
    from llmgym.compat.lamorel.extensions import BaseModelInitializer, BaseModuleFunction, BaseUpdater
    from llmgym.compat.lamorel.launch import lamorel_init

__all__ = [
    "BaseModelInitializer",
    "BaseModuleFunction",
    "BaseUpdater",
    "Caller",
    "ConfigNode",
    "lamorel_init",
    "load_config",
]

_HOMES = {
    "BaseModelInitializer": "extensions",
    "BaseModuleFunction": "extensions",
    "BaseUpdater": "extensions",
    "Caller": "caller",
    "ConfigNode": "config",
    "lamorel_init": "launch",
    "load_config": "config",
}


def __getattr__(name: str) -> Any:
    """Load a public name from the file it lives in."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
