"""`llmgym envs`."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from llmgym.cli.envs import match_ids
from llmgym.cli.main import app
from llmgym.errors import EnvError

RUNNER = CliRunner()
IDS = ["llmgym/BabyAI-GoToLocal-v0", "llmgym/BabyAI-GoToLocalS8N7-v0", "llmgym/BabyAI-Open-v0"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        (None, IDS),
        ("gotolocal", IDS[:2]),
        ("*S?N?-v0", IDS[1:2]),
        ("llmgym/BabyAI-GoToLocal-v0", IDS[:1]),
    ],
)
def test_pattern_is_a_part_or_a_glob_or_an_id(pattern: str | None, found: list[str]) -> None:
    assert match_ids(IDS, pattern) == found


@pytest.mark.parametrize("pattern", ["GoToLoacl-v0", "llmgym/BabyAI-GoToLoacl-v0"])
def test_pattern_that_nothing_fits_names_the_nearest(pattern: str) -> None:
    with pytest.raises(EnvError, match=r"found none that '.*' fits\. Did you mean '.*GoToLocal-v0'\? `llmgym envs`"):
        match_ids(IDS, pattern)


def test_ids_are_lines_where_no_terminal_is() -> None:
    result = RUNNER.invoke(app, ["envs", "GoToLocal"])
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert "llmgym/BabyAI-GoToLocal-v0" in lines
    assert all(line.startswith("llmgym/") for line in lines)


def test_unknown_environment_exits_with_1() -> None:
    result = RUNNER.invoke(app, ["envs", "atari"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: Expected a part of an environment's id")


def test_listing_loads_neither_torch_nor_vllm() -> None:
    code = (
        "import sys\nfrom llmgym.cli.main import app\napp(['envs'], standalone_mode=False)\n"
        "print('loaded:', sorted({'torch', 'vllm', 'transformers', 'minigrid'} & set(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.endswith("loaded: []\n")


def test_one_environment_is_shown_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    from llmgym.cli.console import make_console
    from llmgym.cli.envs import _print_env

    _print_env(make_console(), "llmgym/BabyAI-GoToLocal-v0")
    output = capsys.readouterr().out
    for text in ("Discrete(6)", "turn left, turn right, go forward", "step limit", "64", "go to the", "You see"):
        assert text in output
