"""What a protocol found out: rates with their uncertainty, and everything that is needed to repeat them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from llmgym.rollout.statistics import Estimate, PairedDifference
from llmgym.run.identity import Identity
from llmgym.run.protocols.asking import Asking
from llmgym.run.protocols.task import EpisodeOutcome, Protocol, Task

__all__ = ["Comparison", "Method", "PolicyResult", "ProtocolResult", "TaskResult"]


@dataclass(frozen=True)
class TaskResult:
    """A policy in a task.

    Attributes:
        task: its name.
        success: the rate with the protocol's interval.
        by_episodes: the rate of all episodes with its Wilson interval: the same where that is the protocol's.
        episodes: that count.
        repetitions: the rate of each repetition.
        mean_return: mean undiscounted return of an episode.
        mean_turns: mean length of an episode.
        unparsed: share of turns whose answer named no action.
        given_up: episodes that were given up, which count as failures.
        kinds: kind of mission to how many episodes were of it, and how many succeeded; empty where there are none.
        asking: how the policy was asked.
        outcomes: of every episode.
    """

    task: str
    success: Estimate
    by_episodes: Estimate
    episodes: int
    repetitions: tuple[float, ...]
    mean_return: float
    mean_turns: float
    unparsed: float
    given_up: int
    kinds: Mapping[str, tuple[int, int]]
    asking: Asking
    outcomes: tuple[EpisodeOutcome, ...]


@dataclass(frozen=True)
class PolicyResult:
    """A policy in all tasks.

    Attributes:
        identity: who it is.
        tasks: in the order of the protocol.
        total: over all tasks, where the protocol has such a rate and there are several.
    """

    identity: Identity
    tasks: tuple[TaskResult, ...]
    total: Estimate | None


@dataclass(frozen=True)
class Method:
    """Runs that differ in nothing but the seed, as one method.

    Attributes:
        name: of the method.
        training: what its runs were trained on.
        runs: their names.
        mean: of the success rates of all runs and tasks, with the stratified bootstrap interval over runs.
        iqm: their interquartile mean, with its interval.
        tasks: name of a task to the mean over runs, with its interval.
    """

    name: str
    training: str
    runs: tuple[str, ...]
    mean: Estimate
    iqm: Estimate
    tasks: Mapping[str, Estimate]


@dataclass(frozen=True)
class Comparison:
    """Two policies on the same episodes.

    Attributes:
        first: name of the first.
        second: name of the second.
        total: over all tasks.
        tasks: name of a task to the difference there.
    """

    first: str
    second: str
    total: PairedDifference
    tasks: Mapping[str, PairedDifference]


@dataclass(frozen=True)
class ProtocolResult:
    """What a protocol found out of some policies.

    Attributes:
        protocol: how it was measured.
        confidence: of the intervals.
        tasks: what was measured.
        policies: in the order they were named; the one that others are compared with comes last.
        methods: of runs that differ in the seed only.
        comparisons: of each policy with the one that they are compared with.
        versions: package to version.
        seconds: all of it took.
    """

    protocol: Protocol
    confidence: float
    tasks: tuple[Task, ...]
    policies: tuple[PolicyResult, ...]
    methods: tuple[Method, ...]
    comparisons: tuple[Comparison, ...]
    versions: Mapping[str, str]
    seconds: float

    @property
    def interval(self) -> str:
        """How the intervals of the tasks' rates were made, in a few words."""
        percent = f"{100 * self.confidence:g} %"
        if self.protocol.spread == "standard_error":
            return "± standard error"
        num_seeds = len(self.tasks[0].first_seeds)
        if self.protocol.spread == "seeds" and num_seeds > 1:
            return f"{percent} over {num_seeds} seeds"
        return f"{percent} Wilson"

    def to_json(self) -> dict[str, Any]:
        """Return the outcome, with what is needed to repeat it."""
        return {
            "protocol": {
                "name": self.protocol.name,
                "description": self.protocol.description,
                "counting": self.protocol.counting,
                "interval": self.interval,
                "confidence": self.confidence,
            },
            "tasks": [task.to_json() for task in self.tasks],
            "policies": [_policy_json(policy) for policy in self.policies],
            "methods": [asdict(method) for method in self.methods],
            "comparisons": [asdict(comparison) for comparison in self.comparisons],
            "published": [asdict(row) for row in self.protocol.published],
            "versions": dict(self.versions),
            "seconds": self.seconds,
        }


def _policy_json(policy: PolicyResult) -> dict[str, Any]:
    return {
        **asdict(policy.identity),
        "total": None if policy.total is None else asdict(policy.total),
        "tasks": [_task_json(result) for result in policy.tasks],
    }


def _task_json(result: TaskResult) -> dict[str, Any]:
    """Return a task's numbers, and its episodes as one list a field."""
    outcomes = result.outcomes
    return {
        "task": result.task,
        **asdict(result.success),
        "by_episodes": asdict(result.by_episodes),
        "episodes": result.episodes,
        "successes": sum(one.success for one in outcomes),
        "repetitions": list(result.repetitions),
        "mean_return": result.mean_return,
        "mean_turns": result.mean_turns,
        "unparsed": result.unparsed,
        "given_up": result.given_up,
        "kinds": {kind: {"episodes": num, "successes": won} for kind, (num, won) in result.kinds.items()},
        "asked": result.asking.text,
        **result.asking.facts,
        "first_prompt_sha256": outcomes[0].prompt_sha256,
        "outcomes": {
            "repetition": [one.repetition for one in outcomes],
            "seed": [one.seed for one in outcomes],
            "success": [int(one.success) for one in outcomes],
            "return": [round(one.episode_return, 6) for one in outcomes],
            "turns": [one.num_turns for one in outcomes],
            "kind": [one.kind for one in outcomes],
            "given_up": [one.given_up for one in outcomes],
        },
    }
