"""A protocol's outcome as a Markdown report: our numbers, the published ones beside them, and how each was measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from llmgym.rollout.statistics import Estimate, PairedDifference
from llmgym.run.protocols.result import PolicyResult, ProtocolResult, TaskResult

__all__ = ["to_markdown"]


def to_markdown(result: ProtocolResult, figure: str = "", data: str = "") -> str:
    """Write a report.

    Args:
        figure: file of the plot beside the report; "" for none.
        data: file of the numbers beside it; "" for none.
    """
    protocol = result.protocol
    parts = [
        f"# {', '.join(policy.identity.name for policy in result.policies)}: protocol {protocol.name}",
        f"{protocol.description[0].upper()}{protocol.description[1:]}.",
        f"**How it is counted.** {protocol.counting} Intervals: {result.interval}.",
    ]
    parts += [f"![success rates with their intervals]({figure})"] if figure else []
    for policy in result.policies:
        parts += _policy(result, policy)
    parts += _methods(result) + _comparisons(result) + _beside(result)
    parts += ["## Versions", ", ".join(f"{name} {version}" for name, version in result.versions.items()) + "."]
    parts += [f"Ids, settings, seeds and outcomes of all episodes are in `{data}`."] if data else []
    return "\n\n".join(parts) + "\n"


def _policy(result: ProtocolResult, policy: PolicyResult) -> list[str]:
    """Write what one policy came to."""
    labels = {task.name: task.label for task in result.tasks}
    # The spread of a few seeds says little of how sure a rate is: that of its episodes stands beside it.
    is_wilson = all(task.by_episodes == task.success for task in policy.tasks)
    rows = [
        [
            labels[task.task],
            _rate(task.success),
            *([] if is_wilson else [_interval(task.by_episodes)]),
            str(task.episodes),
            f"{task.mean_turns:.1f}",
            task.asking.text,
        ]
        for task in policy.tasks
    ]
    wilson = [] if is_wilson else [f"{100 * result.confidence:g} % Wilson"]
    if policy.total is not None:
        num_episodes = str(sum(task.episodes for task in policy.tasks))
        rows.append(["**all tasks**", _rate(policy.total), *([""] * len(wilson)), num_episodes, "", ""])
    header = ["task", f"success ({result.interval})", *wilson, "episodes", "turns", "asked with"]
    parts = [f"## {policy.identity.name}", f"{_sentence(policy.identity.training)}.", _table(header, rows)]
    kinds = [
        f"- {task.task}: "
        + ", ".join(f"{kind} {won}/{num} ({won / num:.0%})" for kind, (num, won) in task.kinds.items())
        for task in policy.tasks
        if len(task.kinds) > 1
    ]
    parts += ["Successes by kind of mission:", "\n".join(kinds)] if kinds else []
    notes = [f"- {task.task}: {_given_up(task)}" for task in policy.tasks if task.given_up]
    notes += [
        f"- {task.task}: {task.unparsed:.1%} of the answers named no action" for task in policy.tasks if task.unparsed
    ]
    return [*parts, "\n".join(notes)] if notes else parts


def _given_up(task: TaskResult) -> str:
    first = next(one for one in task.outcomes if one.given_up)
    counted = f"given up, and counted as failures: {task.given_up} of {task.episodes} episodes"
    return f"{counted}. The first (seed {first.seed}): {first.given_up}"


def _methods(result: ProtocolResult) -> list[str]:
    if not result.methods:
        return []
    rows = [
        [method.name, str(len(method.runs)), method.training, _rate(method.mean), _rate(method.iqm)]
        for method in result.methods
    ]
    percent = f"{100 * result.confidence:g} %"
    return [
        "## Over training seeds",
        "Runs that differ in nothing but the seed, as one method: mean and interquartile mean (IQM) of the rates of "
        f"all runs and tasks, with {percent} intervals of the stratified bootstrap over runs "
        "([Agarwal et al. 2021](https://arxiv.org/abs/2108.13264), `rliable`).",
        _table(["runs", "seeds", "trained", "mean", "IQM"], rows),
    ]


def _comparisons(result: ProtocolResult) -> list[str]:
    if not result.comparisons:
        return []
    training = {policy.identity.name: policy.identity.training for policy in result.policies}
    parts = [
        "## Compared on the same episodes",
        "Difference of the success rates (mean over tasks) with the paired bootstrap interval; only the first or only "
        "the second succeeded in so many episodes; p of McNemar's exact test.",
    ]
    for one in result.comparisons:
        rows = [[name, *_difference(pair)] for name, pair in one.tasks.items()]
        if len(rows) > 1:
            rows.append(["**all tasks**", *_difference(one.total)])
        parts += [
            f"**{one.first}** ({training[one.first]}) against **{one.second}** ({training[one.second]}):",
            _table(["task", "difference", "only first", "only second", "p"], rows),
        ]
    return parts


def _beside(result: ProtocolResult) -> list[str]:
    """Write our rows and the published ones, each with what it was trained on and how it was measured."""
    protocol = result.protocol
    if not protocol.published:
        return []
    names = [task.name for task in result.tasks]
    has_total = any("all" in row.rates for row in protocol.published)
    columns = ["all", *names] if has_total else names
    rows = []
    for policy in result.policies:
        rates = {task.task: f"{task.success.value:.2f}" for task in policy.tasks}
        if policy.total is not None:
            rates["all"] = f"{policy.total.value:.2f}"
        asked = list(dict.fromkeys(task.asking.text for task in policy.tasks))
        measured = f"here: {policy.tasks[0].episodes} episodes a task; {'; '.join(asked)}"
        name, training = policy.identity.name, policy.identity.training
        rows.append([f"**{name}**", training, *(f"**{rates.get(one, '–')}**" for one in columns), measured])
    for row in protocol.published:
        cells = [_published(row.rates.get(one), row.errors.get(one)) for one in columns]
        rows.append([row.policy, row.training, *cells, f"published: {row.source}"])
    return [
        "## Beside published numbers",
        "A number of a trained policy and a number of a zero-shot one answer different questions: the second column "
        "says which is which, the last how it was measured.",
        _table(["policy", "trained on", *columns, "measured"], rows),
    ]


def _published(rate: float | None, error: float | None) -> str:
    if rate is None:
        return "–"
    return f"{rate:.2f}" if error is None else f"{rate:.2f} ± {error:.2f}"


def _rate(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} {_interval(estimate)}"


def _interval(estimate: Estimate) -> str:
    return f"[{estimate.low:.3f}, {estimate.high:.3f}]"


def _difference(pair: PairedDifference) -> list[str]:
    difference = pair.difference
    told = f"{difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
    return [told, str(pair.only_first), str(pair.only_second), f"{pair.p_value:.2g}"]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
