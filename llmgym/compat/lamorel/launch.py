"""What stands in for Lamorel's launcher: nothing has to be launched."""

from __future__ import annotations

__all__ = ["lamorel_init"]


def lamorel_init() -> None:
    """Do nothing: a `Caller` starts what it needs when it is made, in every process that needs it."""
