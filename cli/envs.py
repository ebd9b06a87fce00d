"""`llmgym envs`: the environments, and one of them in full."""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING, Annotated

import typer

from llmgym.cli.console import make_console
from llmgym.errors import EnvError, did_you_mean

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["envs", "match_ids"]

PREFIX = "llmgym/"


def envs(
    pattern: Annotated[
        str | None, typer.Argument(help="Part of an id, or a pattern such as '*GoTo*v0'.", show_default="all")
    ] = None,
) -> None:
    """List the environments, or show one in full.

    A pattern that only one environment fits shows that one.
    """
    import gymnasium

    import llmgym  # noqa: F401  (registers the environments)

    ids = match_ids(sorted(env_id for env_id in gymnasium.registry if env_id.startswith(PREFIX)), pattern)
    console = make_console()
    if not console.is_terminal:
        typer.echo("\n".join(ids))
    elif len(ids) == 1:
        _print_env(console, ids[0])
    else:
        from rich.columns import Columns

        console.print(Columns(ids, column_first=True, padding=(0, 3)))
        console.print(f"\n[bold]{len(ids)} environments[/bold]; one of them in full: [bold]llmgym envs {ids[0]}[/bold]")


def match_ids(ids: list[str], pattern: str | None) -> list[str]:
    """Return the ids that a part of an id or a shell pattern fits, whatever the case; an exact id only itself.

    Raises:
        EnvError: nothing fits.
    """
    if pattern is None:
        return ids
    if pattern in ids:
        return [pattern]
    lowered = pattern.lower()
    if any(character in pattern for character in "*?["):
        found = [env_id for env_id in ids if fnmatch.fnmatchcase(env_id.lower(), lowered)]
    else:
        found = [env_id for env_id in ids if lowered in env_id.lower()]
    if not found:
        hint = did_you_mean(pattern, ids) or did_you_mean(pattern, [env_id.partition("-")[2] for env_id in ids])
        raise EnvError(
            f"Expected a part of an environment's id, found none that '{pattern}' fits.{hint} `llmgym envs` lists all."
        )
    return found


def _print_env(console: Console, env_id: str) -> None:
    """Print an environment's spaces, and the beginning of its episode 0."""
    import gymnasium
    from rich.markup import escape
    from rich.table import Table

    env = gymnasium.make(env_id)
    observation, info = env.reset(seed=0)
    limit = env.spec.max_episode_steps if env.spec is not None else None
    limit = limit or getattr(env.unwrapped, "max_steps", None)
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("action space", escape(str(env.action_space)))
    table.add_row("actions", escape(", ".join(info["actions"])))
    table.add_row("step limit", str(limit) if limit else "none")
    table.add_row("a mission", escape(str(observation["mission"])))
    table.add_row("a first text", escape(str(observation["text"])))
    console.print(f"[bold]{env_id}[/bold]")
    console.print(table)
    env.close()
