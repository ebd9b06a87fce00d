"""The algorithms that have a name. Knows nothing but their classes."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import is_dataclass
from types import MappingProxyType

from llmgym.algorithms.a2c import A2C
from llmgym.algorithms.algorithm import Algorithm
from llmgym.algorithms.clone import BehaviourCloning
from llmgym.algorithms.dapo import DAPO
from llmgym.algorithms.dr_grpo import DrGRPO
from llmgym.algorithms.gigpo import GiGPO
from llmgym.algorithms.grpo import GRPO
from llmgym.algorithms.gspo import GSPO
from llmgym.algorithms.ilql import ILQL
from llmgym.algorithms.ppo import PPO
from llmgym.algorithms.reinforce_pp import ReinforcePP
from llmgym.algorithms.rejection import RejectionSampling
from llmgym.algorithms.rloo import RLOO
from llmgym.errors import LearnerError, did_you_mean

__all__ = ["ALGORITHMS", "algorithm_class", "algorithm_name", "register_algorithm"]

_CLASSES: dict[str, type[Algorithm]] = {
    "ppo": PPO,
    "a2c": A2C,
    "rloo": RLOO,
    "reinforce++": ReinforcePP,
    "grpo": GRPO,
    "dr-grpo": DrGRPO,
    "dapo": DAPO,
    "gspo": GSPO,
    "gigpo": GiGPO,
    "ilql": ILQL,
    "rejection": RejectionSampling,
    "clone": BehaviourCloning,
}
ALGORITHMS: Mapping[str, type[Algorithm]] = MappingProxyType(_CLASSES)
"""Name to class: what a recipe or a checkpoint may name."""


def register_algorithm(name: str, algorithm: type[Algorithm]) -> None:
    """Give an algorithm a name, under which recipes and checkpoints find it in this process.

    Args:
        algorithm: a frozen dataclass, whose fields with their defaults are its settings.

    Raises:
        LearnerError: another class has that name.
    """
    taken = _CLASSES.setdefault(name, algorithm)
    if taken is not algorithm:
        raise LearnerError(
            f"Expected a new name for {algorithm.__name__}, got {name!r}, which is {taken.__name__}. Choose another."
        )


def algorithm_class(name: str) -> type[Algorithm]:
    """Return the class of an algorithm: one that has a name, or "module:Class", which is imported.

    Raises:
        LearnerError: there is none of that name, or it is no dataclass.

    >>> algorithm_class("ppo")(clip=0.1).clip
    0.1
    """
    module, _, attribute = name.partition(":")
    if attribute:
        try:
            found: type[Algorithm] = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise LearnerError(
                f"Expected an algorithm at {name!r}, found none: {error}. Write it as module:Class, with the module "
                "where Python finds it."
            ) from error
        if not is_dataclass(found):
            raise LearnerError(
                f"Expected {name!r} to be a dataclass, whose fields are settings, found another class. "
                "Decorate it with @dataclass(frozen=True)."
            )
        return found
    if name not in ALGORITHMS:
        raise LearnerError(
            f"Expected an algorithm among {', '.join(ALGORITHMS)}, or module:Class, got {name!r}."
            f"{did_you_mean(name, ALGORITHMS)}"
        )
    return ALGORITHMS[name]


def algorithm_name(algorithm: Algorithm) -> str:
    """Return what `algorithm_class` finds an algorithm's class by, in any process if possible.

    A class of one's own has its name only where it was registered, so its module counts; a script's has no other.
    """
    cls = type(algorithm)
    named = next((name for name, known in ALGORITHMS.items() if known is cls), None)
    is_found_by_name = cls.__module__.startswith(__package__) or cls.__module__ == "__main__"
    return named if named and is_found_by_name else f"{cls.__module__}:{cls.__qualname__}"
