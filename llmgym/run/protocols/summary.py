"""From episodes to rates with intervals, as each protocol counts; over tasks, over runs, and of two policies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from llmgym.rollout.statistics import (
    Estimate,
    interquartile_mean,
    mean_over_seeds,
    mean_over_tasks,
    over_training_seeds,
    paired_difference,
    standard_error_interval,
    two_sided_z,
)
from llmgym.rollout.success import wilson_interval
from llmgym.run.identity import Identity
from llmgym.run.protocols.asking import Asking
from llmgym.run.protocols.result import Comparison, Method, PolicyResult, TaskResult
from llmgym.run.protocols.task import EpisodeOutcome, Protocol, Spread, Task

__all__ = ["compare", "summarize_method", "summarize_policy", "summarize_task"]

Bools = npt.NDArray[np.bool_]


def summarize_task(
    task: Task, outcomes: Sequence[EpisodeOutcome], asking: Asking, spread: Spread, confidence: float
) -> TaskResult:
    """Return the success rate of a task's episodes, and what else is worth knowing of them."""
    repetitions = tuple(
        float(np.mean([one.success for one in outcomes if one.repetition == repetition]))
        for repetition in range(len(task.first_seeds))
    )
    kinds: dict[str, tuple[int, int]] = {}
    for one in outcomes:
        if one.kind:
            num_episodes, num_successes = kinds.get(one.kind, (0, 0))
            kinds[one.kind] = num_episodes + 1, num_successes + one.success
    num_turns = sum(one.num_turns for one in outcomes)
    return TaskResult(
        task=task.name,
        success=_rate(_successes(outcomes), repetitions, spread, confidence),
        by_episodes=_rate(_successes(outcomes), repetitions, "wilson", confidence),
        episodes=len(outcomes),
        repetitions=repetitions,
        mean_return=float(np.mean([one.episode_return for one in outcomes])),
        mean_turns=num_turns / len(outcomes),
        unparsed=sum(one.num_unparsed for one in outcomes) / max(num_turns, 1),
        given_up=sum(bool(one.given_up) for one in outcomes),
        kinds=dict(sorted(kinds.items())),
        asking=asking,
        outcomes=tuple(outcomes),
    )


def summarize_policy(
    protocol: Protocol, identity: Identity, tasks: Sequence[TaskResult], confidence: float
) -> PolicyResult:
    """Return a policy's results, with the rate over all tasks where the protocol has one."""
    total = None
    if protocol.has_total and len(tasks) > 1:
        successes = [_successes(task.outcomes) for task in tasks]
        if protocol.spread == "standard_error":
            every = np.concatenate(successes)
            total = standard_error_interval(int(every.sum()), len(every))
        else:
            total = mean_over_tasks(successes, confidence)
    return PolicyResult(identity, tuple(tasks), total)


def summarize_method(name: str, policies: Sequence[PolicyResult], confidence: float) -> Method:
    """Return runs that differ in the seed only as one method: means over runs, with bootstrap intervals."""
    scores = np.array([[np.mean(task.repetitions) for task in policy.tasks] for policy in policies])
    by_task = {
        task.task: over_training_seeds(scores[:, index : index + 1], _mean, confidence)
        for index, task in enumerate(policies[0].tasks)
    }
    return Method(
        name=name,
        training=policies[0].identity.training,
        runs=tuple(policy.identity.name for policy in policies),
        mean=over_training_seeds(scores, _mean, confidence),
        iqm=over_training_seeds(scores, interquartile_mean, confidence),
        tasks=by_task,
    )


def compare(first: PolicyResult, second: PolicyResult, confidence: float) -> Comparison:
    """Return how much better the first policy is on the episodes that both have played."""
    pairs = list(zip(first.tasks, second.tasks, strict=True))
    for one, other in pairs:
        assert [end.seed for end in one.outcomes] == [end.seed for end in other.outcomes], "the same seeds for both"
    ours = [_successes(one.outcomes) for one, _ in pairs]
    theirs = [_successes(other.outcomes) for _, other in pairs]
    return Comparison(
        first=first.identity.name,
        second=second.identity.name,
        total=paired_difference(ours, theirs, confidence),
        tasks={
            one.task: paired_difference([own], [others], confidence)
            for (one, _), own, others in zip(pairs, ours, theirs, strict=True)
        },
    )


def _rate(successes: Bools, repetitions: Sequence[float], spread: Spread, confidence: float) -> Estimate:
    num_successes, num_episodes = int(successes.sum()), len(successes)
    if spread == "standard_error":
        return standard_error_interval(num_successes, num_episodes)
    if spread == "seeds" and len(repetitions) > 1:
        return mean_over_seeds(repetitions, confidence)
    low, high = wilson_interval(num_successes, num_episodes, two_sided_z(confidence))
    return Estimate(num_successes / num_episodes, low, high)


def _successes(outcomes: Sequence[EpisodeOutcome]) -> Bools:
    return np.array([one.success for one in outcomes], dtype=np.bool_)


def _mean(scores: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    return np.asarray(scores.mean(axis=-1))
