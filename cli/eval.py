"""`llmgym eval`: the success rate of a policy on held-out episodes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from llmgym.cli.console import make_console
from llmgym.cli.output_file import check_writable
from llmgym.cli.table import print_rows
from llmgym.cli.watch import watched
from llmgym.errors import ConfigError

__all__ = ["EnvSettings", "env_of", "evaluate"]

EnvSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--env-set", metavar="KEY=VALUE", help="A keyword argument of the environment, such as kind=goto; repeatable."
    ),
]


def evaluate(
    policy: Annotated[
        str,
        typer.Argument(metavar="RUN_OR_MODEL", help='A run folder, a model folder, a hub id, "smollm2" or "random".'),
    ],
    env: Annotated[str | None, typer.Option(metavar="ID", help="Environment.", show_default="the run's own")] = None,
    env_set: EnvSettings = None,
    episodes: Annotated[int, typer.Option(min=1, help="How many held-out episodes.")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="Number of the first held-out episode.")] = 0,
    num_envs: Annotated[int, typer.Option(min=1, help="Environments stepped together.")] = 32,
    temperature: Annotated[
        float | None, typer.Option(min=0.0, help="Of the actions; 0 takes the best.", show_default="the run's own")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers here too.")
    ] = None,
) -> None:
    """Measure how often a policy succeeds.

    Shows the success rate with its 95 % interval, the mean return and the mean number of turns.
    """
    from llmgym.config import EvalConfig

    env_id, env_settings = env_of(policy, env, env_set)
    config = EvalConfig(
        policy=policy,
        env=env_id,
        env_settings=env_settings,
        episodes=episodes,
        first_episode=seed,
        num_envs=num_envs,
        temperature=temperature,
    )
    if json_file is not None:
        check_writable(json_file)
    with watched() as reporter:
        from llmgym.run.evaluation import evaluate as run_evaluate

        result = run_evaluate(config, reporter)
    print_rows(make_console(), [result.row], f"{result.env}, after {result.seconds:.0f} s")
    if json_file is not None:
        json_file.write_text(json.dumps(result.to_json(), indent=2) + "\n", encoding="utf-8")


def env_of(policy: str, env: str | None, env_set: list[str] | None) -> tuple[str, dict[str, Any]]:
    """Return the environment to play in and its keyword arguments: those that are named, or else those of the run.

    Args:
        env: its id, if named; then the settings of the run do not count.
        env_set: settings as "key=value", which win.

    Raises:
        ConfigError: the policy is no run, so that nothing names an environment.
    """
    from llmgym.settings import apply_overrides

    if env is not None:
        return env, apply_overrides({}, env_set or ())
    if not (Path(policy) / "config.toml").is_file():
        raise ConfigError(
            f"Expected --env, because '{policy}' is no run folder that names one; found none. "
            "`llmgym envs` lists the environments."
        )
    from llmgym.run.folder import RunFolder

    config = RunFolder.open(Path(policy)).config()
    return config.env, apply_overrides(config.env_settings, env_set or ())
