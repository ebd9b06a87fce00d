"""`llmgym eval`: the success rate of a policy on held-out episodes, or what a protocol makes of several."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmgym.cli.console import make_console
from llmgym.cli.output_file import check_writable
from llmgym.cli.table import print_rows
from llmgym.cli.watch import watched
from llmgym.errors import ConfigError

if TYPE_CHECKING:
    from llmgym.run.protocols.task import ProtocolOptions

__all__ = ["EnvSettings", "env_of", "evaluate"]

EnvSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--env-set", metavar="KEY=VALUE", help="A keyword argument of the environment, such as kind=goto; repeatable."
    ),
]

EPISODES, NUM_ENVS = 256, 32
"""Of a measurement without a protocol."""


def evaluate(
    policies: Annotated[
        list[str],
        typer.Argument(
            metavar="POLICY...",
            help="A run folder, one of its checkpoints, a baseline's folder, a model folder, a hub id, "
            '"smollm2", "random", or "bot" (the environment\'s expert). '
            "Several with --protocol: runs that differ in the seed only are one method.",
        ),
    ],
    protocol: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="glam, balrog, balrog-scored or llmgym.", show_default="success rate only"),
    ] = None,
    env: Annotated[str | None, typer.Option(metavar="ID", help="Environment.", show_default="the run's own")] = None,
    env_set: EnvSettings = None,
    episodes: Annotated[
        int | None,
        typer.Option(min=1, help="How many, in every task of a protocol.", show_default="256, or the protocol's"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Number of the first held-out episode.")] = 0,
    num_envs: Annotated[
        int | None, typer.Option(min=1, help="Environments stepped together.", show_default="32, or the protocol's")
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(min=0.0, help="Of the actions; 0 takes the best.", show_default="the protocol's or run's own"),
    ] = None,
    beta: Annotated[
        float | None,
        typer.Option(min=0.0, help="How much Q guides a run of ILQL; 0 not at all.", show_default="the run's own"),
    ] = None,
    other_missions: Annotated[
        bool,
        typer.Option("--other-missions", help="Tell every episode another one's mission: does the policy read it?"),
    ] = False,
    task: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this task of the protocol; repeatable.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Repetitions of every task.", show_default="the protocol's")
    ] = None,
    against: Annotated[
        str | None, typer.Option(metavar="POLICY", help="Compare with this policy on the same episodes.")
    ] = None,
    confidence: Annotated[
        float | None, typer.Option(help="Of the protocol's intervals.", show_default="the protocol's")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest answer that is written freely.", show_default="the protocol's")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers here too.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write report.md, report.json and report.png here; broken off, the same command goes on.",
        ),
    ] = None,
) -> None:
    """Measure how often a policy succeeds.

    Shows the success rate with its 95 % interval, the mean return and the mean number of turns; with --protocol, what
    a paper would show, beside what papers have shown.
    """
    if json_file is not None:
        check_writable(json_file)
    if protocol is None:
        extras = {"--task": task, "--seeds": seeds, "--against": against, "--confidence": confidence}
        _check_alone(policies, {**extras, "--max-new-tokens": max_new_tokens, "--report": report})
        numbers = _rate(policies[0], env, env_set, (episodes, seed, num_envs, temperature, beta), other_missions)
    else:
        for option, is_given in (("--other-missions", other_missions), ("--beta", beta is not None)):
            if is_given:
                raise ConfigError(f"Expected {option} only without --protocol, found both. Leave one of them out.")
        from llmgym.run.protocols.task import ProtocolOptions

        env_id, env_settings = _protocol_env(protocol, policies, env, env_set)
        options = ProtocolOptions(
            env=env_id,
            env_settings=env_settings,
            episodes=episodes,
            num_seeds=seeds,
            first_episode=seed,
            num_envs=num_envs,
            temperature=temperature,
            confidence=confidence,
            max_new_tokens=max_new_tokens,
            tasks=tuple(task or ()),
        )
        numbers = _protocol(protocol, policies, options, against, report)
    if json_file is not None:
        json_file.write_text(json.dumps(numbers, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _rate(
    policy: str,
    env: str | None,
    env_set: list[str] | None,
    counts: tuple[int | None, int, int | None, float | None, float | None],
    other_missions: bool,
) -> dict[str, Any]:
    """Measure one policy without a protocol, print the table, and return the numbers.

    Args:
        counts: episodes, number of the first, environments, temperature, beta.
        other_missions: whether every episode is told another one's mission.
    """
    from llmgym.config import EvalConfig

    env_id, env_settings = env_of(policy, env, env_set)
    episodes, seed, num_envs, temperature, beta = counts
    config = EvalConfig(
        policy=policy,
        env=env_id,
        env_settings=env_settings,
        episodes=EPISODES if episodes is None else episodes,
        first_episode=seed,
        num_envs=NUM_ENVS if num_envs is None else num_envs,
        temperature=temperature,
        beta=beta,
        other_missions=other_missions,
    )
    with watched() as reporter:
        from llmgym.run.evaluation import evaluate as run_evaluate

        result = run_evaluate(config, reporter)
    told = ", told other missions" if other_missions else ""
    print_rows(make_console(), [result.row], f"{result.env}{told}, after {result.seconds:.0f} s")
    return result.to_json()


def _protocol(
    name: str, policies: Sequence[str], options: ProtocolOptions, against: str | None, report: Path | None
) -> dict[str, Any]:
    """Measure policies as a protocol says, print the tables, write the report, and return the numbers."""
    from llmgym.run.protocols.registry import find_protocol
    from llmgym.run.protocols.report import make_report_folder, write_report

    find_protocol(name)
    if report is not None:
        make_report_folder(report)
    with watched() as reporter:
        from llmgym.run.protocols.running import run_protocol

        result = run_protocol(name, policies, options, against=against, reporter=reporter, keep=report)
    from llmgym.cli.protocol_table import print_protocol

    print_protocol(make_console(), result)
    if report is not None:
        write_report(report, result)
        typer.echo(f"Report: {report / 'report.md'}, with report.json and report.png beside it.")
    return result.to_json()


def _check_alone(policies: Sequence[str], only_with_protocol: Mapping[str, object]) -> None:
    """Refuse what only a protocol can make use of.

    Raises:
        ConfigError: there are several policies, or an option of protocols.
    """
    for option, value in only_with_protocol.items():
        if value is not None and value != []:
            raise ConfigError(
                f"Expected {option} only with --protocol, found it without. Add --protocol llmgym, for example."
            )
    if len(policies) > 1:
        raise ConfigError(
            f"Expected one policy without --protocol, found {len(policies)}: {', '.join(policies)}. "
            "Add --protocol llmgym to measure several on the same episodes."
        )


def _protocol_env(
    protocol: str, policies: Sequence[str], env: str | None, env_set: list[str] | None
) -> tuple[str | None, dict[str, Any]]:
    """Return the environment of a protocol: that of the runs, where it is our own; elsewhere only what was named.

    Raises:
        ConfigError: the runs are of several environments.
    """
    from llmgym.run.folder import RunFolder
    from llmgym.settings import apply_overrides

    runs = [policy for policy in policies if RunFolder.find(Path(policy)) is not None]
    if protocol != "llmgym" or env is not None or not runs:
        return env, apply_overrides({}, env_set or ())
    found = [env_of(run, None, env_set) for run in runs]
    if any(one != found[0] for one in found):
        raise ConfigError(
            f"Expected --env, because the runs are of different environments: {', '.join(one for one, _ in found)}. "
            "Name the one to play in."
        )
    return found[0]


def env_of(policy: str, env: str | None, env_set: list[str] | None) -> tuple[str, dict[str, Any]]:
    """Return the environment to play in and its keyword arguments: those that are named, or else those of the run.

    Args:
        env: its id, if named; then the settings of the run do not count.
        env_set: settings as "key=value", which win.

    Raises:
        ConfigError: the policy is no run, so that nothing names an environment.
    """
    from llmgym.run.folder import RunFolder
    from llmgym.settings import apply_overrides

    if env is not None:
        return env, apply_overrides({}, env_set or ())
    folder = RunFolder.find(Path(policy))
    if folder is None:
        raise ConfigError(
            f"Expected --env, because '{policy}' is no run folder that names one; found none. "
            "`llmgym envs` lists the environments."
        )
    config = folder.config()
    return config.env, apply_overrides(config.env_settings, env_set or ())
