"""`llmgym demos` as a user meets it."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llmgym.cli.main import app

RUNNER = CliRunner()
LAKE = "llmgym/FrozenLake-v0"


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of datasets for Minari."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


def demos(*options: str) -> Any:
    return RUNNER.invoke(app, ["demos", *options])


def test_it_ends_with_what_was_written_and_how_to_load_it(root: Path) -> None:
    result = demos("--env", LAKE, "--env-set", "is_slippery=false", "--episodes", "3")
    assert result.exit_code == 0, result.stderr
    assert re.search(r"planner +100\.0%", result.output)
    assert "dataset         llmgym/FrozenLake/planner-v0: 3 episodes, 18 steps, " in result.output
    assert f"folder          {root}/llmgym/FrozenLake/planner-v0\n" in result.output
    line = 'import minari; dataset = minari.load_dataset("llmgym/FrozenLake/planner-v0")'
    assert f"load it         {line}\n" in result.output
    names: dict[str, Any] = {}
    exec(line, names)
    assert names["dataset"].total_episodes == 3
    assert names["dataset"].recover_environment().unwrapped.desc.shape == (4, 4)
    assert names["dataset"].env_spec.kwargs == {"is_slippery": False}


def test_a_folder_of_the_users_own_is_loaded_by_its_path(tmp_path: Path) -> None:
    options = ("--env", LAKE, "--episodes", "2", "--out", str(tmp_path / "mine"), "--name", "my/own-v3")
    output = demos(*options).output
    (line,) = (text.partition("load it")[2].strip() for text in output.splitlines() if text.startswith("load it"))
    names: dict[str, Any] = {}
    exec(line, names)
    assert (names["dataset"].id, names["dataset"].total_episodes) == ("my/own-v3", 2)
    assert f'under [clone]: dataset = "{tmp_path}/mine/my/own-v3"' in output


def test_a_name_that_is_taken_is_refused_unless_it_is_to_be_replaced() -> None:
    options = ("--env", LAKE, "--name", "my/own-v0", "--episodes")
    assert demos(*options, "2").exit_code == 0
    again = demos(*options, "3")
    assert again.exit_code == 1
    assert "Error: Expected the name of a new dataset, but my/own-v0 exists already in " in again.stderr
    assert len(again.stderr.splitlines()) == 1
    assert "my/own-v0: 3 episodes" in demos(*options, "3", "--overwrite").output


def test_after_ctrl_c_what_was_written_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from llmgym.rollout import demonstrations

    def stopped(*args: Any, **settings: Any) -> Any:
        yield from islice(demonstrations.demonstrate(*args, **settings), 2)
        raise KeyboardInterrupt

    monkeypatch.setattr("llmgym.run.demos.demonstrate", stopped)
    result = demos("--env", LAKE, "--episodes", "5")
    assert result.exit_code == 130
    assert "planner-v0: 2 episodes" in result.output
    assert result.stderr == "Interrupted.\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--env", "llmgym/CartPole-v0"), "Expected an environment with an expert, found 'llmgym/CartPole-v0'"),
        (("--env", "llmgym/FrozenLke-v0"), "Did you mean 'llmgym/FrozenLake-v0'"),
        (("--env", LAKE, "--name", "b"), "Expected the name of a dataset like namespace/name-v0"),
        (("--env", LAKE, "--env-set", "size=3"), "Expected env_settings that llmgym/FrozenLake-v0 knows, found size"),
    ],
)
def test_mistakes_are_one_line(options: tuple[str, ...], message: str, root: Path) -> None:
    result = demos(*options, "--episodes", "1")
    assert result.exit_code == 1
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not list(root.rglob("*.hdf5"))
