"""The baselines that have a name. Knows nothing but their settings."""

from __future__ import annotations

from types import MappingProxyType

from llmgym.baselines.drrn import DRRNSettings
from llmgym.baselines.symbolic_ppo import SymbolicPPOSettings
from llmgym.errors import ConfigError, did_you_mean

__all__ = ["KINDS", "settings_class"]

KINDS = MappingProxyType({"drrn": DRRNSettings, "symbolic-ppo": SymbolicPPOSettings})
"""Name to the class of its settings."""


def settings_class(kind: str) -> type[DRRNSettings] | type[SymbolicPPOSettings]:
    """Return the class of a baseline's settings.

    Raises:
        ConfigError: there is none of that name.

    >>> settings_class("drrn")().gamma
    0.9
    """
    if kind not in KINDS:
        raise ConfigError(f"Expected a baseline ({', '.join(KINDS)}), found {kind!r}.{did_you_mean(kind, KINDS)}")
    return KINDS[kind]
