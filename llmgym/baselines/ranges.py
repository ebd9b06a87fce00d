"""Ranges of settings. Knows no particular setting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmgym.errors import ConfigError

__all__ = ["check_ranges"]


def check_ranges(settings: Any, *, at_least_one: Sequence[str] = (), above_zero: Sequence[str] = ()) -> None:
    """Refuse settings that nothing can be learned with.

    Raises:
        ConfigError: one is too small.
    """
    for name in at_least_one:
        found = getattr(settings, name)
        if found < 1:
            raise ConfigError(f"Expected {name} of at least 1, found {found}. Set {name}=1 or more.")
    for name in above_zero:
        found = getattr(settings, name)
        if not found > 0:
            raise ConfigError(f"Expected {name} above 0, found {found}. Set it higher, or leave it out.")
