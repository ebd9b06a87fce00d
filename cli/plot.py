"""`llmgym plot`: the learning curves of several runs in one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["plot"]


def plot(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders of one environment.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="PNG to write.")] = Path("learning_curves.png"),
    title: Annotated[str, typer.Option(help="What stands above.", show_default="the environment")] = "",
) -> None:
    """Draw the learning curves of several runs, such as the seeds of one recipe.

    Thin lines are runs and the thick one is their mean; dashed lines are what was measured on held-out episodes, with
    stripes from the lowest of the runs to the highest.
    """
    from llmgym.cli.output_file import check_writable
    from llmgym.run.plot import plot_runs

    check_writable(out)
    plot_runs(out, runs, title)
    typer.echo(f"learning curves  {out}")
