"""Put a language model in the agent's seat of any Gymnasium environment, and train it there.

Importing this package loads neither gymnasium nor torch nor vllm: a name is imported when it is first used, and the
environments are registered under ``llmgym/...`` as soon as gymnasium is imported too.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from llmgym.import_hook import call_after_import

if TYPE_CHECKING:
    from llmgym.engine import load_engine
    from llmgym.learner import Learner
    from llmgym.run import evaluate, train

_MODULES = {
    "Learner": "llmgym.learner",
    "evaluate": "llmgym.run",
    "load_engine": "llmgym.engine",
    "train": "llmgym.run",
}
"""Where each public name lives; type checkers read it from the imports above (a test compares the two)."""

__all__ = ["Learner", "__version__", "evaluate", "load_engine", "train"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("llmgym")
    if name not in _MODULES:
        raise AttributeError(f"module 'llmgym' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


call_after_import("gymnasium", lambda: import_module("llmgym.envs.registration").register_all())
