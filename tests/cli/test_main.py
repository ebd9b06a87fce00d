"""The command as a user meets it: help, version, errors, exit statuses."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from llmgym.cli.main import app
from llmgym.errors import EngineError

RUNNER = CliRunner()
COMMANDS = ("train", "baseline", "eval", "play", "plot", "demos", "envs", "config", "doctor", "bench")


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_help_lists_every_command() -> None:
    result = RUNNER.invoke(app, ["--help"])
    assert result.exit_code == 0
    for command in COMMANDS:
        assert f"  {command} " in result.output


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    result = RUNNER.invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert f"Usage: llmgym {command}" in result.output


def test_help_loads_no_library_that_takes_long() -> None:
    heavy = "{'torch', 'vllm', 'transformers', 'gymnasium', 'numpy', 'rich'}"
    code = (
        "import sys\nfrom llmgym.cli.main import app\n"
        "app(['--help'], standalone_mode=False)\n"
        f"print('loaded:', sorted({heavy} & set(sys.modules)))"
    )
    assert run_python(code).endswith("loaded: []\n")


def test_version_is_that_of_the_installed_package() -> None:
    import importlib.metadata

    assert RUNNER.invoke(app, ["--version"]).output == f"llmgym {importlib.metadata.version('llmgym')}\n"


def test_error_of_llmgym_is_one_line_on_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_name: str) -> None:
        raise EngineError("Expected an engine, found none. Start one.")

    monkeypatch.setattr("llmgym.cli.config.find_recipe", fail)
    result = RUNNER.invoke(app, ["config"])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == "Error: Expected an engine, found none. Start one.\n"


def test_interrupt_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("llmgym.cli.config.find_recipe", interrupt)
    result = RUNNER.invoke(app, ["config"])
    assert (result.exit_code, result.stderr) == (130, "Interrupted.\n")


def test_unknown_command_names_the_nearest() -> None:
    result = RUNNER.invoke(app, ["trian"])
    assert result.exit_code == 2
    assert "train" in result.stderr


def test_error_in_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_name: str) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("llmgym.cli.config.find_recipe", fail)
    assert isinstance(RUNNER.invoke(app, ["config"]).exception, ZeroDivisionError)
