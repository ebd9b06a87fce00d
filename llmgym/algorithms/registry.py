"""The algorithms that have a name. Knows nothing but their classes."""

from __future__ import annotations

from types import MappingProxyType

from llmgym.algorithms.clone import BehaviourCloning
from llmgym.algorithms.ppo import PPO
from llmgym.errors import LearnerError, did_you_mean

__all__ = ["ALGORITHMS", "algorithm_class"]

ALGORITHMS = MappingProxyType({"ppo": PPO, "clone": BehaviourCloning})
"""Name to class: what a recipe or a checkpoint may name."""


def algorithm_class(name: str) -> type[PPO] | type[BehaviourCloning]:
    """Return the class of a named algorithm.

    Raises:
        LearnerError: there is none of that name.

    >>> algorithm_class("ppo")(clip=0.1).clip
    0.1
    """
    if name not in ALGORITHMS:
        raise LearnerError(
            f"Expected an algorithm among {', '.join(ALGORITHMS)}, got {name!r}.{did_you_mean(name, ALGORITHMS)}"
        )
    return ALGORITHMS[name]
