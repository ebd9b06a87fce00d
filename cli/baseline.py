"""`llmgym baseline`: train an agent that is no language model, and show what it came to."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmgym.cli.console import make_console
from llmgym.cli.eval import EnvSettings
from llmgym.cli.table import print_rows
from llmgym.cli.watch import watched
from llmgym.errors import ConfigError

if TYPE_CHECKING:
    from llmgym.run.baseline import BaselineConfig
    from llmgym.run.results import TrainResult

__all__ = ["Kind", "baseline"]


class Kind(StrEnum):
    """The baselines."""

    DRRN = "drrn"
    SYMBOLIC_PPO = "symbolic-ppo"


def baseline(
    kind: Annotated[Kind, typer.Argument(help="drrn reads texts, symbolic-ppo the symbols of BabyAI.")],
    env: Annotated[str | None, typer.Option(metavar="ID", help="Environment to learn in; must be given.")] = None,
    env_set: EnvSettings = None,
    steps: Annotated[int, typer.Option(min=1, help="Environment steps to learn from.")] = 100_000,
    seed: Annotated[int, typer.Option(min=0, help="Of levels, weights and draws.")] = 0,
    episodes: Annotated[int, typer.Option(min=1, help="Held-out episodes to measure with.")] = 256,
    run_dir: Annotated[
        Path | None, typer.Option(help="New folder for the run.", show_default="runs/KIND-<time>")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; may be repeated.")
    ] = None,
    settings: Annotated[bool, typer.Option("--settings", help="Print every setting with its help, and stop.")] = False,
) -> None:
    """Train an agent that is no language model.

    What a language model has to be better than: a network that reads texts word by word and values actions (drrn), or
    a small one that sees symbols and learns by PPO (symbolic-ppo). `llmgym eval FOLDER` measures it again.
    """
    from llmgym.settings import apply_overrides, to_toml

    env_settings = apply_overrides({}, env_set or ())
    if env is None and not settings:
        raise ConfigError(
            "Expected --env, the environment to learn in, found none. `llmgym envs` lists them; a first one is "
            "--env llmgym/BabyAI-GoToLocalS6N2-v0."
        )
    if settings:
        from llmgym.run.baseline import baseline_settings

        typer.echo(to_toml(baseline_settings(kind, overrides or ()), with_help=True), nl=False)
        return
    assert env is not None, "checked above"
    folder = run_dir or Path("runs") / f"{kind}-{time.strftime('%Y%m%d-%H%M%S')}"
    typer.secho(str(folder), bold=True, nl=False)
    typer.echo(f": {env}, {kind}, seed {seed}")
    with watched() as reporter:
        from llmgym.run.baseline import BaselineConfig, baseline_settings, train_baseline

        config = BaselineConfig(
            kind=kind.value,
            env=env,
            steps=steps,
            settings=baseline_settings(kind, overrides or ()),
            env_settings=env_settings,
            seed=seed,
            episodes=episodes,
        )
        result = train_baseline(config, folder, reporter)
    _print_result(config, result)


def _print_result(config: BaselineConfig, result: TrainResult) -> None:
    """Print the table of policies, and what can be done with the folder next."""
    typer.echo()
    title = f"{config.kind}, {config.env}, {config.steps:,} env steps, after {result.seconds:.0f} s"
    print_rows(make_console(), result.rows, title)
    lines = {
        "learning curve": str(result.run_dir / "learning_curve.png"),
        "in TensorBoard": f"tensorboard --logdir {result.run_dir / 'tensorboard'}",
        "measure it": f"llmgym eval {result.run_dir} --episodes 1000",
    }
    for label, text in lines.items():
        typer.secho(f"{label:<15} ", dim=True, nl=False)
        typer.echo(text)
