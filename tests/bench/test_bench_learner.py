import json
from pathlib import Path

import pytest

from llmgym.bench.learner import Workload, run
from llmgym.bench.report import best_seconds, make_report


def test_both_ways_agree_and_the_report_has_their_ratios(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    work = Workload(
        num_contexts=4, context_tokens=10, num_episodes=2, num_turns=3, turn_tokens=5, num_layers=1, repeats=1
    )
    figures = run(work).figures
    assert figures["actions_largest_difference_nats"] < 1e-4
    assert figures["episodes_largest_difference_nats"] < 1e-4
    assert figures["actions_ratio_row_per_action_over_packed"] == pytest.approx(
        figures["actions_row_per_action_seconds"] / figures["actions_packed_seconds"]
    )
    assert figures["many_actions_largest_difference_nats"] < 1e-4
    assert figures["update_turns_per_second"] > 0
    assert 0 <= figures["padding_share"] < 1


def test_a_report_is_figures_versions_and_machine(tmp_path: Path) -> None:
    make_report({"turns_per_second": 3.5}).write_json(tmp_path / "report.json")
    record = json.loads((tmp_path / "report.json").read_text())
    assert set(record) == {"figures", "versions", "machine"}
    assert record["figures"] == {"turns_per_second": 3.5}
    assert record["machine"]["cores"] >= 1
    assert {"llmgym", "python", "torch"} <= set(record["versions"])


def test_works_take_turns_and_the_first_time_does_not_count() -> None:
    calls: list[str] = []
    seconds = best_seconds(lambda: calls.append("a"), lambda: calls.append("b"), repeats=2)
    assert calls == ["a", "b", "a", "b", "a", "b"]
    assert len(seconds) == 2
    assert all(0 <= taken < 1 for taken in seconds)
