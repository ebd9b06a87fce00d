"""A learner that dies while the run does something else ends the run all the same."""

from __future__ import annotations

import signal
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from llmgym.errors import LearnerError
from llmgym.learner import Learner, LearnerGroup
from llmgym.learner.settings import LearnerSettings
from llmgym.run.learning import open_learner


@pytest.mark.parametrize(
    ("num_ranks", "message"),
    [
        (1, r"Expected the learner's process to live, but it died of SIGKILL\. Its log: "),
        (2, r"Expected all 2 learner ranks to live, but rank [01] died of SIGKILL; the others were ended\. Its log: "),
    ],
    ids=["apart", "two"],
)
def test_a_rank_that_dies_interrupts_whatever_the_run_does(
    num_ranks: int, message: str, tiny_model: Path, tmp_path: Path
) -> None:
    before, strangers = signal.getsignal(signal.SIGUSR2), set(psutil.Process().children(recursive=True))
    make, settings = partial(Learner, str(tiny_model)), LearnerSettings(num_ranks=num_ranks)
    family: list[psutil.Process] = []
    killed = float("inf")

    def kill_and_wait() -> None:
        nonlocal killed
        with open_learner(make, settings, tmp_path, is_apart=num_ranks == 1) as learner:
            assert isinstance(learner, LearnerGroup)
            family.extend(child for child in psutil.Process().children(recursive=True) if child not in strangers)
            parents = {child.pid: child.ppid() for child in family}
            rank = next(child for child in family if parents.get(parents[child.pid]) in parents)
            killed = time.monotonic()
            rank.kill()
            time.sleep(60)

    with pytest.raises(LearnerError, match=message) as raised:
        kill_and_wait()
    assert time.monotonic() - killed < 30
    assert str(tmp_path) in str(raised.value)
    assert psutil.wait_procs(family, timeout=5)[1] == []
    assert signal.getsignal(signal.SIGUSR2) == before


def test_one_learner_is_a_learner_of_this_process(tiny_model: Path, tmp_path: Path) -> None:
    with open_learner(partial(Learner, str(tiny_model)), LearnerSettings(), tmp_path / "learners") as learner:
        assert isinstance(learner, Learner)
    assert not (tmp_path / "learners").exists()
