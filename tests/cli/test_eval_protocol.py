"""`llmgym eval --protocol`, for real, with policies that cost nothing: tables, files, a line for every mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llmgym.cli.main import app
from llmgym.run.policy import OpenPolicy
from llmgym.run.protocols import running
from llmgym.run.protocols.episodes import play_task
from llmgym.run.protocols.task import EpisodeOutcome, Task

RUNNER = CliRunner()
SMALL = "llmgym/BabyAI-GoToLocalS6N2-v0"
MIXED = "llmgym/BabyAI-MixedTrainLocal-v0"


def test_two_policies_are_shown_compared_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    options = ["--protocol", "llmgym", "--env", SMALL, "--episodes", "6", "--against", "bot"]
    files = ["--json", str(tmp_path / "x.json"), "--report", str(tmp_path / "report")]
    result = RUNNER.invoke(app, ["eval", "random", *options, *files])
    assert result.exit_code == 0, result.stderr
    shown = result.output[result.output.index("Protocol llmgym:") :]
    assert max(map(len, shown.splitlines()[:-1])) <= 80
    assert "random: not trained\n" in shown
    assert "bot: not trained: it plans inside the environment\n" in shown
    bot = next(line.split() for line in shown.splitlines() if line.startswith(" GoToLocalS6N2") and "100.0%" in line)
    assert bot == ["GoToLocalS6N2", "100.0%", "61.0%", "to", "100.0%", "6"]
    assert "McNemar p" in shown
    numbers = json.loads((tmp_path / "x.json").read_text())
    assert [policy["name"] for policy in numbers["policies"]] == ["random", "bot"]
    assert numbers == json.loads((tmp_path / "report" / "report.json").read_text())
    assert sorted(file.name for file in (tmp_path / "report").iterdir()) == ["report.json", "report.md", "report.png"]


def test_an_evaluation_that_broke_off_goes_on_behind_its_finished_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played: list[str] = []

    def breaking_off(opened: OpenPolicy, task: Task, *others: Any) -> tuple[EpisodeOutcome, ...]:
        if len(played) == 1:
            raise KeyboardInterrupt
        played.append(task.name)
        return play_task(opened, task, *others)

    def evaluate(report: str, *options: str) -> Any:
        wanted = ["--protocol", "balrog", "--episodes", "2", "--task", "goto", "--task", "open", *options]
        return RUNNER.invoke(app, ["eval", "random", *wanted, "--report", str(tmp_path / report)])

    assert evaluate("whole").exit_code == 0
    with monkeypatch.context() as patch:
        patch.setattr(running, "play_task", breaking_off)
        result = evaluate("broken")
    assert result.exit_code == 130
    kept = tmp_path / "broken" / "finished_tasks.jsonl"
    assert f"1 finished task is kept in {kept.parent}: the same command goes on from there" in result.output
    with monkeypatch.context() as patch:
        patch.setattr(running, "play_task", breaking_off)
        result = evaluate("broken", "--seed", "7")
    assert result.exit_code == 130, "other episodes are other tasks"
    assert "was played before" not in result.output
    assert "the same command" not in result.output, "nothing of that one is kept"
    result = evaluate("broken")
    assert result.exit_code == 0
    assert "random: goto was played before, and is not again" in result.output
    assert result.output.count("was played before") == 1
    whole, broken = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("whole", "broken"))
    assert broken.pop("seconds") > 0
    assert broken == {name: value for name, value in whole.items() if name != "seconds"}
    assert not kept.exists(), "the report says it all"


@pytest.mark.parametrize("columns", ["80", "120"])
def test_glam_is_shown_beside_published_rows(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    options = ["--protocol", "glam", "--episodes", "3", "--num-envs", "3", "--task", "composition", "--seeds", "1"]
    result = RUNNER.invoke(app, ["eval", "random", *options])
    assert result.exit_code == 0, result.stderr
    shown = result.output[result.output.index("Protocol glam:") :]
    assert max(map(len, shown.splitlines())) <= int(columns)
    assert "99 % Wilson" in shown
    after = shown[shown.index("Beside published numbers") :]
    row = next(line for line in after.splitlines() if line.startswith(" GFlan-T5"))
    assert row.split()[-1] == "12"
    assert "trained on" in row
    zero_shot = next(line for line in after.splitlines() if line.startswith(" Flan-T5"))
    assert "zero-shot" in zero_shot


@pytest.mark.parametrize("policy", ["random", "bot"])
def test_an_agent_is_measured_without_a_protocol_too(policy: str) -> None:
    result = RUNNER.invoke(app, ["eval", policy, "--env", SMALL, "--episodes", "6"])
    assert result.exit_code == 0, result.stderr
    row = next(line.split() for line in result.output.splitlines() if line.strip().startswith(f"{policy} "))
    assert row[0] == policy
    assert "6" in row


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["random", "--protocol", "galm"], "Expected a protocol (glam, balrog, balrog-scored, llmgym), found 'galm'."),
        (["random", "--protocol", "glam", "--env", SMALL], "Expected no --env and no --env-set with --protocol glam"),
        (["random", "--protocol", "glam", "--seed", "7"], "Expected no --seed with --protocol glam, found 7"),
        (["random", "--protocol", "glam", "--task", "frensh"], "found 'frensh'. Did you mean 'french'?"),
        (
            ["random", "--protocol", "glam", "--against", "bot"],
            "Expected --against with a protocol that plays the same",
        ),
        (["random", "--protocol", "llmgym"], "Expected --env with --protocol llmgym"),
        (["random", "--protocol", "llmgym", "--env", "llmgym/BabyAI-GoToLocl-v0"], "Did you mean 'llmgym/BabyAI-GoToL"),
        (["random", "--protocol", "llmgym", "--env", SMALL, "--seeds", "2"], "Expected no --seeds with --protocol llm"),
        (["random", "--protocol", "llmgym", "--env", SMALL, "--confidence", "95"], "between 0 and 1, found 95."),
        (["random", "random", "--protocol", "llmgym", "--env", SMALL], "Expected each policy once, found random again"),
        (["rnadom", "--env", SMALL], "found 'rnadom'. Did you mean 'random'?"),
        (["random", "bot", "--env", SMALL], "Expected one policy without --protocol, found 2: random, bot."),
        (["random", "--env", SMALL, "--against", "bot"], "Expected --against only with --protocol, found it without."),
        (
            ["random", "--env", SMALL, "--protocol", "llmgym", "--other-missions"],
            "Expected --other-missions only without --protocol, found both.",
        ),
        (
            ["random", "--env", SMALL, "--protocol", "llmgym", "--beta", "1"],
            "Expected --beta only without --protocol, found both.",
        ),
        (
            ["random", "--env", SMALL, "--beta", "1"],
            "Expected a run whose heads guide it for beta=1.0, found 'random'.",
        ),
        (["random", "--env", SMALL, "--report", "x"], "Expected --report only with --protocol, found it without."),
        (["bot", "--env", "llmgym/CartPole-v0"], "Expected an environment that has an expert, for the policy 'bot'"),
    ],
)
def test_a_mistake_is_told_in_one_line(arguments: list[str], message: str) -> None:
    result = RUNNER.invoke(app, ["eval", *arguments])
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_runs_of_several_environments_need_one_to_be_named(tmp_path: Path) -> None:
    for name, env in (("a", SMALL), ("b", MIXED)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.toml").write_text(f'env = "{env}"\n')
    result = RUNNER.invoke(app, ["eval", str(tmp_path / "a"), str(tmp_path / "b"), "--protocol", "llmgym"])
    assert result.exit_code == 1
    assert f"the runs are of different environments: {SMALL}, {MIXED}. Name the one to play in." in result.stderr
