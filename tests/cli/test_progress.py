"""What a run shows while it goes on: lines, or a live view that nothing garbles."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from io import StringIO

import pytest
from rich.console import Console

from llmgym.cli.live import LiveReporter
from llmgym.cli.plain import PlainReporter
from llmgym.cli.quiet import quiet_libraries

METRICS = {"success": 0.5, "return": 0.25, "env_steps_per_second": 210.4, "policy_loss": -0.01, "grad_norm": 9.0}


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_plain_lines_come_at_most_every_five_seconds() -> None:
    lines: list[str] = []
    clock = Clock()
    reporter = PlainReporter(lines.append, clock)
    reporter.stage("reinforcement learning", 10, "updates")
    for update in range(1, 11):
        clock.now += 2.0
        reporter.advance(update, METRICS)
    reporter.close()
    assert lines == [
        "reinforcement learning: started, 10 updates",
        "reinforcement learning: 3/10 updates, success 50.0%, return 0.250, env steps/s 210, policy loss -0.0100",
        "reinforcement learning: 6/10 updates, success 50.0%, return 0.250, env steps/s 210, policy loss -0.0100",
        "reinforcement learning: 9/10 updates, success 50.0%, return 0.250, env steps/s 210, policy loss -0.0100",
        "reinforcement learning: 10/10 updates, success 50.0%, return 0.250, env steps/s 210, policy loss -0.0100",
        "reinforcement learning: ended after 20 s",
    ]


def test_plain_stage_without_total_begins_and_ends_with_a_line() -> None:
    lines: list[str] = []
    reporter = PlainReporter(lines.append, Clock())
    reporter.stage("engine", None, "")
    reporter.note("KV cache: 1 GiB")
    reporter.stage("evaluation", 1, "episodes")
    reporter.close()
    reporter.close()
    assert lines == [
        "engine: started",
        "KV cache: 1 GiB",
        "engine: ended after 0 s",
        "evaluation: started, 1 episodes",
        "evaluation: ended after 0 s",
    ]


def wait_for(screen: StringIO, text: str) -> None:
    deadline = time.monotonic() + 20
    while text not in screen.getvalue():
        assert time.monotonic() < deadline, f"{text!r} was not drawn: {screen.getvalue()!r}"
        time.sleep(0.02)


@pytest.mark.parametrize("width", [50, 120])
def test_live_view_shows_stages_bar_and_metrics(width: int) -> None:
    screen = StringIO()
    reporter = LiveReporter(Console(file=screen, force_terminal=True, width=width, color_system=None))
    reporter.stage("evaluation: random", 32, "episodes")
    reporter.advance(32, {"success": 0.125})
    reporter.stage("updates", 40, "updates")
    reporter.advance(11, {**METRICS, "update": 11})
    reporter.advance(12, {**METRICS, "update": 12})
    wait_for(screen, "12/40 updates")
    wait_for(screen, "env steps/s")
    wait_for(screen, "▅▅")
    drawn = screen.getvalue()
    assert "success 12.5%" in drawn
    assert "210" in drawn
    assert "grad_norm" not in drawn
    assert "✓" in drawn
    reporter.close()
    reporter.close()


def test_live_view_does_not_tick_off_a_stage_that_was_cut_short() -> None:
    screen = StringIO()
    reporter = LiveReporter(Console(file=screen, force_terminal=True, width=80, color_system=None))
    reporter.stage("updates", 40, "updates")
    reporter.advance(3, {})
    reporter.close()
    assert "✓" not in screen.getvalue()
    assert "3/40 updates" in screen.getvalue()


NOISY = """
import os, sys
from llmgym.cli.watch import watched
with watched() as reporter:
    reporter.stage("working", 2, "steps")
    print("noise of python")
    os.write(2, b"noise of compiled code")
    os.system("echo noise of a child")
    reporter.advance(2, {})
    FAIL
print("after")
"""


def run_in_terminal(code: str) -> tuple[str, int]:
    """Run code in a new terminal, and return what the terminal got and the exit status."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=follower, stdout=follower, stderr=follower, env=environment
    )
    os.close(follower)
    chunks = []
    while True:
        try:
            chunk = os.read(leader, 4096)
        except OSError:
            break
        if not chunk:
            break
        chunks.append(chunk)
    os.close(leader)
    return b"".join(chunks).decode(), process.wait()


def test_terminal_shows_the_view_and_none_of_the_noise() -> None:
    output, status = run_in_terminal(NOISY.replace("FAIL", ""))
    assert status == 0
    assert "working" in output
    assert "noise" not in output
    assert output.rstrip().endswith("after")


def test_terminal_shows_the_noise_once_something_fails() -> None:
    output, status = run_in_terminal(NOISY.replace("FAIL", "raise ZeroDivisionError"))
    assert status == 1
    assert "what the libraries printed last" in output
    for source in ("python", "compiled code", "a child"):
        assert f"noise of {source}" in output
    assert "ZeroDivisionError" in output


def test_pipe_gets_lines() -> None:
    code = NOISY.replace("FAIL", "")
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "working: started, 2 steps\n" in output
    assert "working: ended after 0 s\n" in output
    assert "\x1b" not in output


def test_variables_that_the_user_has_set_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "DEBUG")
    monkeypatch.setenv("PYTHONWARNINGS", "default")
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS", raising=False)
    quiet_libraries()
    assert os.environ["PYTHONWARNINGS"] == "default"
    assert os.environ["VLLM_LOGGING_LEVEL"] == "DEBUG"
    assert os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] == "1"
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
