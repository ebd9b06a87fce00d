"""`llmgym plot` on runs that are files only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from matplotlib.image import imread
from typer.testing import CliRunner

from llmgym.cli.main import app
from llmgym.config import RunConfig
from llmgym.run.folder import RunFolder

RUNNER = CliRunner()


def make_run(path: Path, rates: list[float], env: str = "llmgym/BabyAI-GoToObjS4-v0") -> Path:
    folder = RunFolder.create(path, RunConfig(env))
    rows = [{"update": n, "env_steps": 100 * n, "seconds": 1.0, "success": rate} for n, rate in enumerate(rates, 1)]
    folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder.write_evaluation("trained", {"success": rates[-1], "low": 0.0, "high": 1.0, "episodes": 9})
    return path


def test_draws_the_curves_of_several_runs(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"{n}", [0.1 * n, 0.2 * n, 0.3 * n]) for n in (1, 2, 3)]
    result = RUNNER.invoke(app, ["plot", *map(str, runs), "--out", str(tmp_path / "curves.png")])
    assert result.exit_code == 0
    assert f"learning curves  {tmp_path / 'curves.png'}" in result.output
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_corrections_have_a_panel_of_their_own(tmp_path: Path) -> None:
    both, only, other = (make_run(tmp_path / name, [0.5, 0.6]) for name in ("both", "only", "other"))
    for run in (both, only):
        told = [{"episodes": 500}, *({"round": n, "solved_alone": 0.1 * n} for n in (1, 2))]
        (run / "cloning.jsonl").write_text("".join(json.dumps(row) + "\n" for row in told))
    (only / "metrics.jsonl").write_text("")
    widths = {}
    for name, runs in {"two stages": [both, both], "corrections": [both, only], "updates": [both, other]}.items():
        assert RUNNER.invoke(app, ["plot", *map(str, runs), "--out", str(tmp_path / "c.png")]).exit_code == 0
        widths[name] = imread(tmp_path / "c.png").shape[1]
    assert widths == {"two stages": 1440, "corrections": 960, "updates": 960}, "what all of the runs have is drawn"
    result = RUNNER.invoke(app, ["plot", str(only), str(other), "--out", str(tmp_path / "c.png")])
    assert result.exit_code == 1
    assert f"Expected runs with a stage in common, found {only}, {other}. Draw them apart." in result.stderr


@pytest.mark.parametrize("rates", [[0.5], [0.5, 0.6]])
def test_one_run_is_enough(tmp_path: Path, rates: list[float]) -> None:
    run = make_run(tmp_path / "one", rates)
    assert RUNNER.invoke(app, ["plot", str(run), "--out", str(tmp_path / "c.png"), "--title", "one"]).exit_code == 0


def test_what_cannot_be_drawn_is_told_in_a_line(tmp_path: Path) -> None:
    run, empty = make_run(tmp_path / "one", [0.5]), make_run(tmp_path / "two", [0.5])
    (empty / "metrics.jsonl").write_text("")
    other = make_run(tmp_path / "three", [0.5], "llmgym/FrozenLake-v0")
    out = ["--out", str(tmp_path / "c.png")]
    for arguments, message in (
        ([run, tmp_path], f"Expected a run folder at {tmp_path}, found no config.toml there"),
        ([run, empty], f"found neither an update with an episode nor a round of correction in {empty}. Leave it out."),
        ([run, other], "Expected runs of one environment, llmgym/BabyAI-GoToObjS4-v0, found llmgym/Froz"),
    ):
        result = RUNNER.invoke(app, ["plot", *map(str, arguments), *out])
        assert result.exit_code == 1
        assert message in result.stderr
        assert len(result.stderr.splitlines()) == 1
    assert RUNNER.invoke(app, ["plot", str(run), "--out", str(tmp_path / "no" / "c.png")]).exit_code == 1


def test_draws_the_success_rates_of_a_benchmark(tmp_path: Path) -> None:
    rates = {"success": 0.5, "low": 0.25, "high": 0.75, "seconds": 3.0}
    names = [f"{env}_{policy}" for env in "ab" for policy in ("random", "ppo")]
    figures = {f"{name}_{end}": rate for name in names for end, rate in rates.items()}
    report = tmp_path / "algorithms.json"
    report.write_text(json.dumps({"figures": figures}))
    result = RUNNER.invoke(app, ["plot", str(report), "--out", str(tmp_path / "a.png")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    for text in ('{"figures": {"steps": 1.0}}', "[]", "no JSON"):
        report.write_text(text)
        result = RUNNER.invoke(app, ["plot", str(report), "--out", str(tmp_path / "b.png")])
        assert result.exit_code == 1
        assert f"Expected a report with success rates in {report}, found none." in result.stderr
        assert len(result.stderr.splitlines()) == 1
