"""`llmgym config`: every setting of a recipe, with its help."""

from __future__ import annotations

from typing import Annotated

import typer

from llmgym.cli.recipe import find_recipe

__all__ = ["config"]


def config(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe, or path of a .toml file.")] = "quickstart",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; may be repeated.")
    ] = None,
) -> None:
    """Print every setting of a recipe, with its help.

    What is printed is a recipe again, to save and change.
    """
    path = find_recipe(recipe)
    from llmgym.config import load_config
    from llmgym.settings import to_toml

    config = load_config(path, overrides or [])
    typer.echo(to_toml(config, with_help=True, more_helps=config.algorithm_helps()), nl=False)
