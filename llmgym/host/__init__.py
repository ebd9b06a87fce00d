"""Models as torch modules in the hand of the user: scored, read by custom modules, updated by custom updaters.

An engine serves a policy fast; a host lets the user reach into the model: decoder-only or encoder-decoder, several
models and adapters by name, in this process or in several. The names load on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmgym.host.generation import Sampled
    from llmgym.host.host import Host
    from llmgym.host.hosted_model import HostedModel
    from llmgym.host.inputs import PassOptions
    from llmgym.host.loading import ModelSettings
    from llmgym.host.model_spec import ModelSpec, Updater
    from llmgym.host.rows import SCORE, ModuleFunction, Rows
    from llmgym.host.serving import Placement, Shard

__all__ = [
    "SCORE",
    "Host",
    "HostedModel",
    "ModelSettings",
    "ModelSpec",
    "ModuleFunction",
    "PassOptions",
    "Placement",
    "Rows",
    "Sampled",
    "Shard",
    "Updater",
]

_HOMES = {
    "SCORE": "rows",
    "Host": "host",
    "HostedModel": "hosted_model",
    "ModelSettings": "loading",
    "ModelSpec": "model_spec",
    "ModuleFunction": "rows",
    "PassOptions": "inputs",
    "Placement": "serving",
    "Rows": "rows",
    "Sampled": "generation",
    "Shard": "serving",
    "Updater": "model_spec",
}


def __getattr__(name: str) -> Any:
    """Load a public name from the file it lives in."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
