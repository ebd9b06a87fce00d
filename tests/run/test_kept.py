"""Tasks kept of an evaluation that breaks off: found by what decides their outcome, and never claimed unwritten."""

from collections.abc import Mapping
from pathlib import Path

import pytest

import llmgym  # noqa: F401  (registers the environments)
from llmgym.config import RunConfig
from llmgym.engine.scripted_engine import ScriptedEngine
from llmgym.rollout.collect_settings import CollectSettings
from llmgym.run.identity import Identity
from llmgym.run.policy import OpenPolicy, ServedPolicy
from llmgym.run.protocols import kept
from llmgym.run.protocols.asking import asking_of
from llmgym.run.protocols.episodes import play_task
from llmgym.run.protocols.kept import KeptTasks, forget_kept
from llmgym.run.protocols.registry import find_protocol, tasks_of
from llmgym.run.protocols.task import ProtocolOptions

VERSIONS = {"llmgym": "1"}
KEY = {"policy": "random", "task": "goto"}


def test_a_task_is_found_by_its_key_and_versions(tmp_path: Path) -> None:
    KeptTasks(tmp_path, VERSIONS).add(KEY, (), 2.5)
    again = KeptTasks(tmp_path, VERSIONS)
    assert again.num_of_this == 0, "nothing was asked for yet"
    assert again.find({**KEY, "task": "open"}) is None
    assert again.find(KEY) == ()
    assert (again.num_of_this, again.seconds) == (1, 2.5)
    assert KeptTasks(tmp_path, {"llmgym": "2"}).find(KEY) is None


def test_a_task_that_could_not_be_written_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(file: Path, text: str) -> None:
        raise OSError("No space left on device")

    tasks = KeptTasks(tmp_path, VERSIONS)
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


def test_answers_are_kept_until_their_task_is_finished_or_there_is_a_report(tmp_path: Path) -> None:
    tasks = KeptTasks(tmp_path, VERSIONS)
    assert tasks.told() == ""
    answers = tasks.begin(KEY)
    assert answers is not None
    assert answers != KeptTasks(tmp_path, {"llmgym": "2"}).begin(KEY), "another version writes other answers"
    assert tasks.told() == "", "none was written yet"
    answers.write_text("{}\n")
    assert tasks.told() == "The answers of an unfinished task are"
    tasks.add(KEY, (), 1.0)
    assert not answers.exists()
    assert tasks.told() == "1 finished task is"
    other = tasks.begin({**KEY, "task": "open"})
    assert other is not None
    other.write_text("{}\n")
    assert tasks.told() == "1 finished task and the answers of an unfinished one are"
    forget_kept(tmp_path)
    assert list(tmp_path.iterdir()) == []


class Watching:
    """A reporter that remembers; it breaks off at so many answers."""

    def __init__(self, breaks_off_at: float = float("inf")) -> None:
        self.breaks_off_at = breaks_off_at
        self.notes: list[str] = []
        self.answers: list[float] = []

    def stage(self, name: str, total: int | None, unit: str) -> None:
        pass

    def advance(self, done: int, metrics: Mapping[str, float]) -> None:
        self.answers.append(metrics["answers"])
        if metrics["answers"] >= self.breaks_off_at:
            raise KeyboardInterrupt

    def note(self, text: str) -> None:
        self.notes.append(text)

    def close(self) -> None:
        pass


@pytest.mark.parametrize("barrier", [True, False])
def test_a_task_of_written_answers_goes_on_in_the_midst_of_its_episodes(barrier: bool, tmp_path: Path) -> None:
    num_asked = 0

    def answer(context: str, seed: int) -> str:
        nonlocal num_asked
        num_asked += 1
        return ("turn left", "go forward", "nonsense")[seed % 3]

    config = RunConfig(env="llmgym/BabyAI-MixedTrainLocal-v0", collect=CollectSettings(barrier=barrier))
    served = ServedPolicy("m", ScriptedEngine(answer=answer), config, "m")
    opened = OpenPolicy("m", Identity("m", "model", "zero-shot"), served)
    task, *_ = tasks_of(find_protocol("balrog"), ProtocolOptions(episodes=3))
    asking = asking_of(opened, task)
    whole = play_task(opened, task, asking, Watching())
    num_turns = sum(one.num_turns for one in whole)
    assert num_asked == num_turns
    assert 0 < sum(one.num_unparsed for one in whole) < num_turns

    answers, watching = tmp_path / "answers.jsonl", Watching(breaks_off_at=20)
    with pytest.raises(KeyboardInterrupt):
        play_task(opened, task, asking, watching, answers)
    num_kept = len(answers.read_text().splitlines())
    assert 20 <= num_kept < 24
    assert watching.notes == []
    num_asked, watching = 0, Watching()
    assert play_task(opened, task, asking, watching, answers) == whole
    assert num_asked == num_turns - num_kept
    assert watching.notes == [f"m: {task.name}: {num_kept} answers are kept, and not asked for again"]
    assert watching.answers[-1] == num_turns
