"""A script's hooks, by the name of the model they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmgym.compat.lamorel.extensions import BaseModuleFunction
from llmgym.compat.lamorel.settings import CallerSettings
from llmgym.errors import ConfigError, did_you_mean
from llmgym.host.rows import SCORE

__all__ = ["functions_by_name", "hooks_by_name"]


def hooks_by_name(given: Any, settings: CallerSettings, expected: type, argument: str) -> dict[str, Any]:
    """Return hooks by the name of their model."""
    if given is None:
        return {}
    found = dict(given) if isinstance(given, Mapping) else None
    if found is None:
        if len(settings.llms) > 1:
            raise ConfigError(
                f"Expected {argument} by the name of a model ({', '.join(settings.llms)}), because there are several."
            )
        found = {next(iter(settings.llms)): given}
    for name, hook in found.items():
        _check_name(name, settings, argument)
        if hook is not None and not isinstance(hook, expected):
            raise ConfigError(f"Expected {argument} to be a {expected.__name__}, got {type(hook).__name__}.")
    return found


def functions_by_name(given: Mapping[str, Any] | None, settings: CallerSettings) -> dict[str, dict[str, Any]]:
    """Return module functions by key by the name of their model."""
    functions = dict(given or {})
    if not any(isinstance(value, Mapping) for value in functions.values()):
        if functions and len(settings.llms) > 1:
            raise ConfigError(
                f"Expected custom_module_functions by the name of a model ({', '.join(settings.llms)}), because there "
                "are several."
            )
        functions = {next(iter(settings.llms)): functions}
    for name, keyed in functions.items():
        _check_name(name, settings, "custom_module_functions")
        for key, function in keyed.items():
            if not isinstance(function, BaseModuleFunction) or key == SCORE:
                raise ConfigError(
                    f"Expected the module function {key!r} to be a BaseModuleFunction under a key other than {SCORE}, "
                    f"got {type(function).__name__}."
                )
    return functions


def _check_name(name: str, settings: CallerSettings, argument: str) -> None:
    if name not in settings.llms:
        raise ConfigError(
            f"Expected {argument} by the name of a model ({', '.join(settings.llms)}), found {name!r}."
            f"{did_you_mean(name, settings.llms)}"
        )
