"""`llmgym play`: watch a policy play one episode, with what it thinks of every action."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmgym.cli.console import make_console
from llmgym.cli.eval import EnvSettings, env_of
from llmgym.cli.film import Film
from llmgym.cli.metrics import percent
from llmgym.cli.quiet import quiet_libraries

if TYPE_CHECKING:
    from rich.console import Console

    from llmgym.run.episode import PlayStep

__all__ = ["play"]

BAR_WIDTH = 24
MAX_ACTIONS = 10
"""How many candidates are shown, the most probable ones."""


def play(
    policy: Annotated[
        str,
        typer.Argument(
            metavar="RUN_OR_MODEL",
            help='A run folder or one of its checkpoints, a model folder, a hub id, "smollm2" or "random".',
        ),
    ],
    env: Annotated[str | None, typer.Option(metavar="ID", help="Environment.", show_default="the run's own")] = None,
    env_set: EnvSettings = None,
    seed: Annotated[int, typer.Option(min=0, help="Number of the held-out episode.")] = 0,
    temperature: Annotated[
        float | None, typer.Option(min=0.0, help="Of the actions; 0 takes the best.", show_default="the run's own")
    ] = None,
    max_turns: Annotated[int | None, typer.Option(min=1, help="Stop after so many turns.")] = None,
    delay: Annotated[float, typer.Option(min=0.0, metavar="SECONDS", help="Wait after every turn.")] = 0.0,
    render: Annotated[
        Path | None, typer.Option(metavar="FILE.gif|DIR", help="Keep the pictures: a GIF, or a folder of PNGs.")
    ] = None,
) -> None:
    """Watch a policy play one episode.

    Every turn shows what the policy sees, and how probable it finds each action.
    """
    env_id, env_settings = env_of(policy, env, env_set)
    film = None if render is None else Film(render)
    console = make_console()
    quiet_libraries()
    typer.secho("loading the policy ...", dim=True, err=True)
    from llmgym.run.episode import play as play_episode

    step, total = None, 0.0
    for step in play_episode(
        policy, env_id, env_settings, seed=seed, temperature=temperature, max_turns=max_turns, render=film is not None
    ):
        if step.turn == 0:
            typer.secho(f"\n{step.mission}", bold=True)
        _print_step(console, step)
        total += step.reward
        if film is not None:
            share = f" ({percent(step.probabilities[step.chosen])})" if step.probabilities else ""
            film.add(step.frame, f"{step.turn + 1}. {step.actions[step.chosen]}{share}")
        time.sleep(delay)
    if step is not None:
        _print_ending(step, total)
    if film is not None:
        typer.echo(f"{film.save()} pictures in {render}")


def _print_step(console: Console, step: PlayStep) -> None:
    """Print what was seen, what was said, and the action: among bars for all of them, where each has a probability."""
    from rich.markup import escape
    from rich.padding import Padding

    console.print(f"\n[dim]turn {step.turn + 1}[/dim]")
    console.print(Padding(escape(step.text), (0, 0, 0, 2)))
    if step.said:
        console.print(Padding(f"[italic]{escape(step.said.strip())}[/italic]", (0, 0, 0, 2)))
    if step.probabilities:
        _print_bars(console, step)
    else:
        console.print(f" [bold green]▸ {escape(step.actions[step.chosen])}[/bold green]")
        if not step.is_parsed:
            console.print("   [yellow]the answer names no action: this is the fallback[/yellow]")
    if step.reward != 0:
        console.print(f"  [yellow]reward {step.reward:.3f}[/yellow]")


def _print_bars(console: Console, step: PlayStep) -> None:
    """Print a bar for every action, the chosen one marked."""
    from rich.markup import escape
    from rich.table import Table

    table = Table.grid(padding=(0, 1))
    table.add_column(width=2)
    table.add_column(overflow="fold")
    table.add_column(width=BAR_WIDTH, no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    order = sorted(range(len(step.actions)), key=lambda index: -step.probabilities[index])
    shown = set(order[:MAX_ACTIONS]) | {step.chosen}
    for index, (action, probability) in enumerate(zip(step.actions, step.probabilities, strict=True)):
        if index in shown:
            is_chosen = index == step.chosen
            bar = "█" * round(probability * BAR_WIDTH) or "▏"
            table.add_row(
                " ▸" if is_chosen else "",
                escape(action),
                bar,
                percent(probability),
                style="bold green" if is_chosen else "dim",
            )
    console.print(table)
    if len(step.actions) > len(shown):
        console.print(f"[dim]   and {len(step.actions) - len(shown)} less probable ones[/dim]")


def _print_ending(step: PlayStep, total: float) -> None:
    """Say how the episode ended."""
    num_turns = "1 turn" if step.turn == 0 else f"{step.turn + 1} turns"
    if step.terminated:
        ending = "ended with success" if total > 0 else "ended without success"
    else:
        ending = "ran into the step limit" if step.truncated else "was left unfinished"
    color = typer.colors.GREEN if total > 0 else typer.colors.YELLOW
    typer.secho(f"\nThe episode {ending} after {num_turns}, return {total:.3f}.", fg=color, bold=True)
