"""The keeping engine: what was decided once is read back to the bit, and nobody is asked for it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmgym.engine.keeping_engine import KeepingEngine
from llmgym.engine.scripted_engine import ScriptedEngine
from llmgym.types import Acting, Choice, Engine

ACTIONS = ["turn left", "go forward"]
WRITTEN = Acting(how="text", max_new_tokens=16, fallback="go forward")


class CountingEngine(ScriptedEngine):
    """Counts what it is asked for; answers "turn left", but nonsense to "c"."""

    def __init__(self) -> None:
        super().__init__(answer=lambda context, _seed: "nonsense" if context == "c" else "turn left")
        self.num_asked = 0

    def act(self, contexts: Sequence[Any], *arguments: Any, **options: Any) -> list[Choice]:
        self.num_asked += len(contexts)
        return super().act(contexts, *arguments, **options)


def told(choice: Choice) -> tuple[object, ...]:
    """Return all of a choice in a form that compares, NaN included."""
    fields = {name: getattr(choice, name) for name in choice.__slots__ if name != "logprobs"}
    return (*fields.items(), choice.logprobs.dtype, choice.logprobs.tobytes())


@pytest.mark.parametrize("kind", ["reference_engine", "vllm_engine"])
@pytest.mark.parametrize(
    "acting", [WRITTEN, Acting(how="reason", max_new_tokens=8), Acting()], ids=["text", "reason", "score"]
)
def test_a_decision_of_a_real_engine_is_read_back_to_the_bit(
    kind: str, acting: Acting, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    engine: Engine = request.getfixturevalue(kind)
    file = tmp_path / "answers.jsonl"
    asked: dict[str, Any] = {"contexts": ["a wall", "a door"], "candidates": [ACTIONS] * 2, "acting": acting}
    made = KeepingEngine(engine, file).act(**asked, seed=[5, 6])
    again = KeepingEngine(engine, file)
    found = again.act(**asked, seed=[5, 6])
    assert (again.num_found, again.num_made, again.num_kept) == (2, 0, 2)
    assert list(map(told, found)) == list(map(told, made))
    assert all(type(one) is type(other) for one, other in zip(found, made, strict=True))


def test_only_what_the_file_lacks_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    KeepingEngine(CountingEngine(), file).act(["a", "c"], [ACTIONS] * 2, WRITTEN, [0, 3])
    engine = CountingEngine()
    choices = KeepingEngine(engine, file).act(["a", "b", "c"], [ACTIONS] * 3, WRITTEN, [0, 2, 3])
    assert engine.num_asked == 1
    assert [(one.index, one.is_parsed) for one in choices] == [(0, True), (0, True), (1, False)]


@pytest.mark.parametrize(
    "changed",
    [{"contexts": ["b"]}, {"candidates": [["turn left"]]}, {"acting": Acting(how="text")}, {"seed": [1]}],
    ids=lambda changed: next(iter(changed)),
)
def test_a_decision_is_found_by_all_that_it_was_drawn_from(changed: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    asked: dict[str, Any] = {"contexts": ["a"], "candidates": [ACTIONS], "acting": WRITTEN, "seed": [0]}
    KeepingEngine(CountingEngine(), file).act(**asked)
    engine = CountingEngine()
    KeepingEngine(engine, file).act(**{**asked, **changed})
    assert engine.num_asked == 1
    KeepingEngine(engine, file).act(**{**asked, "contexts": [np.array([97], dtype=np.int32)]})
    assert engine.num_asked == 2, "a text and its tokens are asked for in different ways"


def test_decisions_begun_one_by_one_are_found_whoever_took_them_first(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    KeepingEngine(CountingEngine(), file).act(["a"], [ACTIONS], WRITTEN, [0])
    engine = CountingEngine()
    keeping = KeepingEngine(engine, file)
    tickets = [keeping.start(context, ACTIONS, WRITTEN, seed) for context, seed in (("b", 1), ("a", 0), ("c", 2))]
    first, second = keeping.advance(), keeping.advance()
    assert [ticket for ticket, _ in first] == [tickets[1]], "what the file has comes first"
    assert [(ticket, one.is_parsed) for ticket, one in second] == [(tickets[0], True), (tickets[2], False)]
    assert engine.num_asked == 2
    assert KeepingEngine(engine, file).num_kept == 3


def test_a_decision_without_a_seed_is_made_anew(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    engine = CountingEngine()
    keeping = KeepingEngine(engine, file)
    for seed in (None, 4):
        keeping.act(["a"], [ACTIONS], WRITTEN, seed)
        keeping.act(["a"], [ACTIONS], WRITTEN, seed)
    keeping.start("a", ACTIONS, WRITTEN)
    keeping.advance()
    assert engine.num_asked == 5
    assert keeping.num_kept == 0
    assert not file.exists()


def test_a_last_line_that_was_cut_off_costs_that_decision_only(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    KeepingEngine(CountingEngine(), file).act(["a", "b"], [ACTIONS] * 2, WRITTEN, [0, 1])
    file.write_text(file.read_text()[:-20])
    engine = CountingEngine()
    keeping = KeepingEngine(engine, file)
    assert keeping.num_kept == 1
    keeping.act(["a", "b"], [ACTIONS] * 2, WRITTEN, [0, 1])
    assert engine.num_asked == 1
    assert KeepingEngine(engine, file).num_kept == 2


@pytest.mark.parametrize(("temperature", "num_asked"), [(0.0, 1), (1.0, 3)])
def test_at_temperature_0_the_same_question_is_asked_once(temperature: float, num_asked: int) -> None:
    engine, acting = CountingEngine(), replace(WRITTEN, temperature=temperature)
    keeping = KeepingEngine(engine)
    keeping.act(["a"], [ACTIONS], acting, [0])
    keeping.act(["a"], [ACTIONS], acting, [1])
    keeping.start("a", ACTIONS, acting, 2)
    ((_, choice),) = keeping.advance()
    assert choice.is_parsed
    assert engine.num_asked == num_asked
    assert (keeping.num_found, keeping.num_made) == (3 - num_asked, num_asked)


def test_it_tells_when_decisions_were_made_and_needs_no_file() -> None:
    counts: list[int] = []
    keeping = KeepingEngine(CountingEngine(), watch=lambda: counts.append(keeping.num_made))
    keeping.act(["a", "b"], [ACTIONS] * 2, WRITTEN, [0, 1])
    keeping.act(["a"], [ACTIONS], WRITTEN, [7])
    keeping.start("a", ACTIONS, WRITTEN, 8)
    keeping.advance()
    assert counts == [2, 3, 4]
    assert (keeping.num_found, keeping.num_kept) == (0, 4)
