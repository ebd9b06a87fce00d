"""`llmgym train`: run a recipe, watch it, and show what it came to."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmgym.cli.console import make_console
from llmgym.cli.recipe import find_recipe
from llmgym.cli.table import print_rows
from llmgym.cli.watch import watched
from llmgym.errors import ConfigError

if TYPE_CHECKING:
    from llmgym.config import RunConfig
    from llmgym.run.results import TrainResult

__all__ = ["train"]

DEFAULT_RECIPE = "quickstart"


def train(
    recipe: Annotated[
        str | None, typer.Argument(help="Name of a recipe, or path of a .toml file.", show_default=DEFAULT_RECIPE)
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="New folder for the run.", show_default="runs/RECIPE-<time>")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; may be repeated.")
    ] = None,
    learners: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Processes that learn together; the same as --set learner.num_ranks=N.",
            show_default="the recipe's, 1",
        ),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Continue the run in this folder from its newest checkpoint.")
    ] = None,
) -> None:
    """Train a policy, and leave everything in a run folder.

    Success is measured before, between and after. The settings of a recipe, with their help: `llmgym config RECIPE`.
    """
    if resume is not None and (recipe or run_dir or overrides or learners is not None):
        raise ConfigError(
            "Expected --resume alone, found a recipe, --run-dir, --set or --learners beside it. A run goes on as it "
            f"was begun: llmgym train --resume {resume}"
        )
    changes = [*(overrides or []), *([f"learner.num_ranks={learners}"] if learners is not None else [])]
    config, folder = _plan(recipe or DEFAULT_RECIPE, run_dir, changes) if resume is None else _reopen(resume)
    typer.secho(str(folder), bold=True, nl=False)
    typer.echo(f": {config.env}, model {config.model}, seed {config.seed}")
    with watched() as reporter:
        from llmgym.run.training import train as run_train

        result = run_train(config, folder, reporter, resume=resume is not None)
    _print_result(config, result)


def _plan(recipe: str, run_dir: Path | None, overrides: list[str]) -> tuple[RunConfig, Path]:
    """Return the configuration and the folder of a new run."""
    path = find_recipe(recipe)
    from llmgym.config import load_config

    config = load_config(path, overrides)
    return config, run_dir or Path("runs") / f"{path.stem}-{time.strftime('%Y%m%d-%H%M%S')}"


def _reopen(run_dir: Path) -> tuple[RunConfig, Path]:
    """Return the configuration and the folder of a run that was begun."""
    from llmgym.run.folder import RunFolder

    return RunFolder.open(run_dir).config(), run_dir


def _print_result(config: RunConfig, result: TrainResult) -> None:
    """Print the table of policies, and what can be done with the run next."""
    typer.echo()
    print_rows(make_console(), result.rows, f"{config.env}, after {result.seconds:.0f} s")
    curve = result.run_dir / "learning_curve.png"
    lines = {
        "learning curve": str(curve) if curve.is_file() else "",
        "in TensorBoard": f"tensorboard --logdir {result.run_dir / 'tensorboard'}",
        "watch it play": f"llmgym play {result.run_dir}",
        "measure it": f"llmgym eval {result.run_dir} --episodes 1000",
    }
    for label, text in lines.items():
        if text:
            typer.secho(f"{label:<15} ", dim=True, nl=False)
            typer.echo(text)
