"""Recipes by name or path. Knows where they lie, not what is in them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from llmgym.errors import ConfigError, did_you_mean

__all__ = ["find_recipe", "recipe_names"]


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with llmgym."""
    return sorted(path.stem for path in _recipe_folder().glob("*.toml"))


def find_recipe(name: str) -> Path:
    """Return the file of a recipe.

    Args:
        name: of a recipe that comes with llmgym, or the path of a TOML file.

    Raises:
        ConfigError: there is none; the message lists those that there are.
    """
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise ConfigError(f"Expected a recipe at {name}, found no such file. Check the path.")
        return path
    known = recipe_names()
    if name not in known:
        raise ConfigError(
            f"Expected a recipe ({', '.join(known)}) or a .toml file, found '{name}'.{did_you_mean(name, known)}"
        )
    return _recipe_folder() / f"{name}.toml"


def _recipe_folder() -> Path:
    package = importlib.util.find_spec("llmgym.run")
    assert package is not None, "llmgym.run is a part of llmgym"
    assert package.origin is not None, "a package has a file"
    return Path(package.origin).parent / "recipes"
