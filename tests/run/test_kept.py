"""Tasks kept of an evaluation that breaks off: found by what decides their outcome, and never claimed unwritten."""

from pathlib import Path

import pytest

from llmgym.run.protocols import kept
from llmgym.run.protocols.kept import KeptTasks

VERSIONS = {"llmgym": "1"}
KEY = {"policy": "random", "task": "goto"}


def test_a_task_is_found_by_its_key_and_versions(tmp_path: Path) -> None:
    file = tmp_path / "finished_tasks.jsonl"
    KeptTasks(file, VERSIONS).add(KEY, (), 2.5)
    again = KeptTasks(file, VERSIONS)
    assert again.num_of_this == 0, "nothing was asked for yet"
    assert again.find({**KEY, "task": "open"}) is None
    assert again.find(KEY) == ()
    assert (again.num_of_this, again.seconds) == (1, 2.5)
    assert KeptTasks(file, {"llmgym": "2"}).find(KEY) is None


def test_a_task_that_could_not_be_written_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(file: Path, text: str) -> None:
        raise OSError("No space left on device")

    tasks = KeptTasks(tmp_path / "finished_tasks.jsonl", VERSIONS)
    with monkeypatch.context() as patch:
        patch.setattr(kept, "write_whole", full_disk)
        with pytest.raises(OSError, match="No space"):
            tasks.add(KEY, (), 1.0)
    assert tasks.num_of_this == 0
    assert tasks.find(KEY) is None


def test_without_a_file_nothing_is_kept() -> None:
    tasks = KeptTasks(None, VERSIONS)
    tasks.add(KEY, (), 1.0)
    assert tasks.find(KEY) is None
    assert tasks.num_of_this == 0
