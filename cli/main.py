"""The command `llmgym`: its subcommands, and how an error reaches the user. Knows no subcommand's work."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Annotated, Any, Never

import typer
from typer.core import TyperGroup

from llmgym.cli.baseline import baseline
from llmgym.cli.bench import bench
from llmgym.cli.config import config
from llmgym.cli.demos import demos
from llmgym.cli.doctor import doctor
from llmgym.cli.envs import envs
from llmgym.cli.eval import evaluate
from llmgym.cli.play import play
from llmgym.cli.plot import plot
from llmgym.cli.train import train
from llmgym.errors import LLMGymError

__all__ = ["app", "main"]

INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 + SIGINT."""
TERMINATED = 143
"""Exit status after what schedulers send before they kill: 128 + SIGTERM."""


class _Terminated(KeyboardInterrupt):
    """Asked to end by a signal; whoever puts things in order after Ctrl-C does after that, too."""


class _Commands(TyperGroup):
    """Turns llmgym's own errors into one line, Ctrl-C and SIGTERM into their exit status."""

    def invoke(self, ctx: Any) -> Any:
        """Run a subcommand."""
        try:
            return super().invoke(ctx)
        except LLMGymError as error:
            typer.secho("Error: ", err=True, nl=False, fg=typer.colors.RED, bold=True)
            typer.echo("\n".join([str(error), *getattr(error, "__notes__", [])]), err=True)
            raise typer.Exit(1) from error
        except _Terminated as terminated:
            typer.echo("Terminated.", err=True)
            raise typer.Exit(TERMINATED) from terminated
        except KeyboardInterrupt as interrupt:
            typer.echo("Interrupted.", err=True)
            raise typer.Exit(INTERRUPTED) from interrupt


app = typer.Typer(
    cls=_Commands,
    name="llmgym",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Rich help pages take half a second to import what draws them.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train")(train)
app.command("baseline")(baseline)
app.command("eval")(evaluate)
app.command("play")(play)
app.command("plot")(plot)
app.command("demos")(demos)
app.command("envs")(envs)
app.command("config")(config)
app.command("doctor")(doctor)
app.command("bench")(bench)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        import importlib.metadata

        typer.echo(f"llmgym {importlib.metadata.version('llmgym')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Put a language model in the agent's seat of any Gymnasium environment, and train it there.

    New here? `llmgym doctor` looks at this machine, and `llmgym train` trains a small model.
    """


def main() -> None:
    """Run the command line: the entry point of the installed command."""
    signal.signal(signal.SIGTERM, _terminate)
    app()


def _terminate(number: int, frame: FrameType | None) -> Never:
    raise _Terminated


if __name__ == "__main__":
    main()
