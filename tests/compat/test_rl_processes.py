"""A script that several processes run, as n_rl_processes says: they call one model together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmgym.compat.lamorel.calls import CloseCall, UpdateCall, answer_calls
from llmgym.errors import HostError
from llmgym.host import Shard

SCRIPT = Path(__file__).with_name("rl_script.py")


class RecordingHost:
    """Stands for a host with some processes: an update answers with the shard that each was given."""

    def __init__(self, size: int) -> None:
        self.size = size

    def num_processes(self, model: str | None) -> int:
        return self.size

    def update_shards(self, shards: list[Shard], *, model: str | None) -> list[Any]:
        assert len(shards) == self.size
        return [(process, shard.contexts, shard.data["tag"]) for process, shard in enumerate(shards)]


def updates(num_calls: int, num_contexts: int) -> list[UpdateCall]:
    return [
        UpdateCall([f"{call}{index}" for index in range(num_contexts)], None, {"tag": call}, None)
        for call in range(num_calls)
    ]


def test_fewer_processes_than_calls_take_whole_calls_one_after_another() -> None:
    host: Any = RecordingHost(2)
    assert answer_calls(host, updates(4, 1)) == [[(0, ["00"], 0)], [(0, ["10"], 1)], [(1, ["20"], 2)], [(1, ["30"], 3)]]


def test_more_processes_than_calls_divide_each_call() -> None:
    host: Any = RecordingHost(4)
    assert answer_calls(host, updates(2, 2)) == [
        [(0, ["00"], 0), (1, ["01"], 0)],
        [(2, ["10"], 1), (3, ["11"], 1)],
    ]


def test_numbers_that_do_not_divide_and_calls_of_several_kinds_are_told() -> None:
    host: Any = RecordingHost(2)
    with pytest.raises(HostError, match=r"found 2 and 3\. Change n_llm_processes or n_rl_processes"):
        answer_calls(host, updates(3, 1))
    with pytest.raises(HostError, match="found: update of None, close of None"):
        answer_calls(host, [*updates(1, 1), CloseCall(None)])


def test_two_processes_run_a_script_and_each_gets_its_own_answers(
    tiny_zoo: dict[str, Path], by_hand: Callable[[str, Any, Any], float]
) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(SCRIPT), str(tiny_zoo["llama"])],
        capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, second = sorted((json.loads(line) for line in done.stdout.splitlines()), key=lambda found: found["rank"])
    for found, contexts in ((first, ["You see"]), (second, ["turn left", "go"])):
        for context, scores in zip(contexts, found["scores"], strict=True):
            expected = [by_hand("llama", context, candidate) for candidate in (" a", " red ball")]
            assert scores == pytest.approx(expected, abs=1e-5)
        assert found["total"] == 3.0
        assert found["updated"] == [[contexts, list(range(len(contexts))), f"rank {found['rank']}"]]
        assert "Expected every context to have a token" in found["error"]
