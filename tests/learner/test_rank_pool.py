"""Processes that compute together live and die together."""

from __future__ import annotations

import re
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from llmgym.errors import LearnerError
from llmgym.learner.ranks.pool import RankPool

sys.path.append(str(Path(__file__).parent))
import rank_questions


def test_a_rank_that_fails_ends_the_others_and_tells_its_traceback() -> None:
    pool = RankPool(2, num_threads=1)
    family = [psutil.Process(process) for pair in pool.ask(rank_questions.process_ids) for process in pair]
    begun = time.monotonic()
    with pytest.raises(LearnerError) as raised:
        pool.ask(partial(rank_questions.fail, index=1, others="wait"))
    assert time.monotonic() - begun < 30
    assert re.fullmatch(
        r"Expected all 2 learner ranks to live, but rank 1 died of ZeroDivisionError: no head for numbers; the others "
        r"were ended\. Its log: /.*/1/stderr\.log",
        str(raised.value),
    )
    (note,) = raised.value.__notes__
    assert note.startswith("Traceback (most recent call last)")
    assert 'raise ZeroDivisionError("no head for numbers")' in note
    assert psutil.wait_procs(family, timeout=5)[1] == []
    with pytest.raises(LearnerError, match="Expected learner ranks to ask, but they were ended"):
        pool.ask(rank_questions.process_ids)
    pool.close()


def test_impossible_numbers_of_ranks_are_refused() -> None:
    with pytest.raises(LearnerError, match=r"Expected at least 1 learner rank, got 0\. Ask for 1 or more\."):
        RankPool(0)
    with pytest.raises(LearnerError, match=r"Expected a GPU for each of 9999 learner ranks, found \d+\. Ask for fewer"):
        RankPool(9999, device="cuda")
    with pytest.raises(LearnerError, match=r"Expected ranks on cpu or cuda, got 'mps'"):
        RankPool(2, device="mps")
