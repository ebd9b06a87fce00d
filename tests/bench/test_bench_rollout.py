import pytest

from llmgym.bench.rollout import PARTS, Workload, run
from llmgym.bench.stopwatch import Stopwatch


def test_shares_add_up_and_both_loops_write_the_same() -> None:
    work = Workload(num_envs=4, num_steps=3, num_writing_envs=3, num_written_steps=2, answer_tokens=(2, 9), repeats=1)
    figures = run(work).figures
    shares = [figures[f"steps_share_{part}"] for part in PARTS]
    assert all(share > 0 for share in shares)
    assert sum(shares) == pytest.approx(1.0, abs=0.02)
    assert figures["barrier_same_answers_share"] == 1.0
    assert 1 <= figures["barrier_shortest_answer_tokens"] <= figures["barrier_longest_answer_tokens"] <= 9
    assert figures["barrier_ratio_lock_step_over_free"] == pytest.approx(
        figures["barrier_lock_step_seconds"] / figures["barrier_free_seconds"]
    )


class Clockwork:
    """Two functions, one inside the other, that let a clock of ours go on."""

    def __init__(self, now: list[float]) -> None:
        self.now = now

    def outer(self) -> None:
        self.now[0] += 2
        self.inner()
        self.now[0] += 1

    def inner(self) -> None:
        self.now[0] += 5


def test_a_stopwatch_counts_to_the_innermost_part(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("llmgym.bench.stopwatch.perf_counter", lambda: now[0])
    watch, work = Stopwatch(), Clockwork(now)
    with watch.watching((work, "outer", "a"), (Clockwork, "inner", "b")), watch.part("rest"):
        now[0] += 10
        work.outer()
        now[0] += 20
    assert watch.seconds == {"rest": 30, "a": 3, "b": 5}
    work.outer()
    assert watch.seconds == {"rest": 30, "a": 3, "b": 5}, "nothing is watched any more"
    assert "outer" not in vars(work)


def test_what_the_stopwatch_takes_is_taken_off_again() -> None:
    class Work:
        def nothing(self) -> None:
            pass

    watch, work = Stopwatch(), Work()
    with watch.watching((work, "nothing", "inner")), watch.part("outer"):
        for _ in range(1000):
            work.nothing()
    net = watch.net_seconds()
    assert watch.num_calls == {("outer", "inner"): 1000}
    assert net["inner"] < watch.seconds["inner"]
    assert net["outer"] < watch.seconds["outer"]
