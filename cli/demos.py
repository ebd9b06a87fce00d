"""`llmgym demos`: episodes of an expert or any policy, as a Minari dataset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmgym.cli.console import make_console
from llmgym.cli.eval import EnvSettings
from llmgym.cli.table import print_rows
from llmgym.cli.watch import watched

if TYPE_CHECKING:
    from llmgym.run.demos import DemosResult

__all__ = ["demos"]


def demos(
    env: Annotated[str, typer.Option(metavar="ID", help="Environment; `llmgym envs` lists them.")],
    episodes: Annotated[int, typer.Option(min=1, help="How many episodes to write.")] = 100,
    env_set: EnvSettings = None,
    policy: Annotated[
        str,
        typer.Option(
            metavar="WHO",
            help='Who: "bot", the expert of the environment (of BabyAI a bot, of FrozenLake and others a planner), '
            'or, as for `llmgym eval`, a run folder, a baseline, a model folder, a hub id, "smollm2" or "random".',
        ),
    ] = "bot",
    seed: Annotated[int, typer.Option(min=0, help="Of the episodes, which are the same whoever plays.")] = 0,
    temperature: Annotated[
        float | None,
        typer.Option(min=0.0, help="Of a policy's actions.", show_default="the run's own"),
    ] = None,
    slips: Annotated[
        float, typer.Option(min=0.0, max=0.99, help="Share of the steps in which the expert does anything instead.")
    ] = 0.0,
    name: Annotated[
        str | None, typer.Option(metavar="NAMESPACE/NAME-v0", help="Of the dataset.", show_default="llmgym/ENV/WHO-v0")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of datasets.", show_default="where Minari keeps them")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a dataset of that name.")] = False,
) -> None:
    """Write episodes as a Minari dataset, to clone or to learn from offline.

    An expert's failures are left out, unless nobody could have done better. Ctrl-C writes what is complete.
    """
    from llmgym.settings import apply_overrides

    env_settings = apply_overrides({}, env_set or ())
    with watched() as reporter:
        from llmgym.run.demos import DemosConfig, write_demos

        result = write_demos(
            DemosConfig(
                env=env,
                env_settings=env_settings,
                episodes=episodes,
                policy=policy,
                seed=seed,
                name=name,
                root=out,
                overwrite=overwrite,
                temperature=temperature,
                slips=slips,
            ),
            reporter,
        )
    _print_result(result, env, is_elsewhere=out is not None)
    if result.is_interrupted:
        raise KeyboardInterrupt


def _print_result(result: DemosResult, env: str, *, is_elsewhere: bool) -> None:
    """Print how the policy did, what was written where, and what can be done with it next."""
    typer.echo()
    print_rows(make_console(), [result.row], env)
    size = sum(file.stat().st_size for file in result.folder.rglob("*") if file.is_file()) / 1e6
    left_out = f"; {result.num_left_out} that the expert failed at are left out" if result.num_left_out else ""
    where = str(result.folder / "data") if is_elsewhere else result.name
    loader = "MinariDataset" if is_elsewhere else "load_dataset"
    dataset = str(result.folder) if is_elsewhere else result.name
    lines = {
        "dataset": f"{result.name}: {result.row.episodes} episodes, {result.num_steps} steps, {size:.1f} MB{left_out}",
        "folder": str(result.folder),
        "load it": f'import minari; dataset = minari.{loader}("{where}")',
        "clone it": f'in a recipe for this environment, under [clone]: dataset = "{dataset}"',
    }
    for label, text in lines.items():
        typer.secho(f"{label:<15} ", dim=True, nl=False)
        typer.echo(text)
