"""A model served by two processes answers as one does; a process that dies is an error, and none is left behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("worker_script.py")


def run(mode: str, folder: Path) -> tuple[int, dict[str, Any]]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), mode, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return done.returncode, found


@pytest.fixture(scope="module")
def compared(tiny_zoo: dict[str, Path]) -> dict[str, Any]:
    return run("compare", tiny_zoo["gpt2"])[1]


def flat(nested: Any) -> list[float]:
    return [number for part in nested for number in flat(part)] if isinstance(nested, list) else [nested]


@pytest.mark.parametrize("call", ["many", "one", "alone", "generated", "after", "after_single"])
def test_two_processes_answer_as_one(compared: dict[str, Any], call: str) -> None:
    spread, local = compared["spread"][call], compared["local"][call]
    assert [len(part) for part in spread] == [len(part) for part in local]
    assert flat(spread) == pytest.approx(flat(local), abs=1e-4)


def test_updates_move_the_model(compared: dict[str, Any]) -> None:
    local = compared["local"]
    assert flat(local["many"]) != pytest.approx(flat(local["after"]), abs=1e-2)
    assert flat(local["after"]) != pytest.approx(flat(local["after_single"]), abs=1e-2)


def test_an_update_returns_an_item_for_each_process_and_its_shard(compared: dict[str, Any]) -> None:
    def indices(call: Any) -> list[list[int]]:
        return [item["indices"] for item in call]

    assert indices(compared["local"]["two"][0]) == [[0, 1]]
    assert indices(compared["spread"]["two"][0]) == [[0], [1]]
    assert indices(compared["spread"]["single"]) == [[0], [0]]
    assert indices(compared["spread"]["uneven"]) == [[0, 1], [2, 0]]


def test_bad_input_in_a_process_is_told_and_harms_nobody(compared: dict[str, Any]) -> None:
    assert compared["spread"]["bad"].startswith("HostError: Expected every candidate to have a token")
    assert "after" in compared["spread"]


def test_gradients_do_not_leave_a_process(compared: dict[str, Any]) -> None:
    assert "a graph cannot leave its process" in compared["gradients"]


def test_an_updater_that_fails_in_one_process_ends_the_others(compared: dict[str, Any]) -> None:
    assert "ValueError('on purpose')" in compared["failed"]
    assert compared["failed_seconds"] < 30
    assert "are closed" in compared["gone"]


def test_a_closed_host_says_so_and_leaves_no_process(compared: dict[str, Any]) -> None:
    assert "is closed. Make a new Host" in compared["closed"]
    assert compared["children"] == 0


def test_a_process_that_dies_is_an_error_within_seconds_and_takes_the_others_along(tiny_zoo: dict[str, Path]) -> None:
    _, found = run("die", tiny_zoo["gpt2"])
    assert re.search(r"Process \d of 2 that served the model 'main' ended with exit code -9", found["message"])
    assert found["seconds"] < 30
    assert found["children"] == 0


def test_a_program_that_is_killed_leaves_no_process(tiny_zoo: dict[str, Path]) -> None:
    code, found = run("abandon", tiny_zoo["gpt2"])
    assert code == -9
    assert len(found["pids"]) == 1
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in found["pids"]) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(Path(f"/proc/{pid}").exists() for pid in found["pids"])
