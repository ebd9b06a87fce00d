"""The errors a caller may want to catch, one class a boundary. Knows nothing of what raises them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "ActionParseError",
    "ConfigError",
    "DatasetError",
    "EngineError",
    "EnvError",
    "HostError",
    "LLMGymError",
    "LearnerError",
    "PromptError",
    "RunError",
    "SyncError",
    "did_you_mean",
]


class LLMGymError(Exception):
    """Base of every error llmgym raises on purpose: the message is one line meant for a user."""


class ConfigError(LLMGymError):
    """A recipe, a setting or an option does not say something llmgym can do."""


class DatasetError(LLMGymError):
    """A dataset of episodes cannot be written, found or read."""


class EnvError(LLMGymError):
    """An environment is unknown, or does not keep to its contract."""


class PromptError(LLMGymError):
    """A prompt cannot be built, or does not fit into the model's context.

    Attributes:
        position: which of the contexts of a call does not fit; None where it is no matter of one of several.
    """

    def __init__(self, message: str, *, position: int | None = None) -> None:
        """Say what is wrong, and with which context."""
        super().__init__(message)
        self.position = position


class ActionParseError(LLMGymError):
    """A text names no action of the environment."""


class EngineError(LLMGymError):
    """An engine cannot start, or cannot answer a request."""


class HostError(LLMGymError):
    """A hosted model cannot be loaded or asked this way, or one of its worker processes is gone."""


class LearnerError(LLMGymError):
    """The learner cannot be built, or an update cannot be taken."""


class SyncError(LLMGymError):
    """The engine and the learner do not hold the same policy after a swap."""


class RunError(LLMGymError):
    """A run folder cannot be written, read or resumed."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the nearest known name, or an empty string if none is near.

    >>> did_you_mean("leraning_rate", ["learning_rate", "clip"])
    " Did you mean 'learning_rate'?"
    """
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{near[0]}'?" if near else ""
