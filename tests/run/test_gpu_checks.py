"""The checks of GPUs, as far as a machine without one can run them: on a CPU they must pass, and they must notice."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from llmgym.engine import load_engine
from llmgym.errors import RunError
from llmgym.run import gpu_checks
from llmgym.run.gpu_checks import CheckOutcome, check_attention, check_float32, run_check


def two_and_then_an_error() -> Iterator[tuple[str, str]]:
    yield "one", "well"
    yield "two", "well too"
    raise RunError("three is not")


def death() -> Iterator[tuple[str, str]]:
    yield "one", "well"
    os._exit(3)


def surprise() -> Iterator[tuple[str, str]]:
    yield from ()
    raise KeyError("what")


def test_float32_checks_pass_on_a_cpu_too() -> None:
    outcomes = list(run_check(check_float32))
    assert all(outcome.is_passed for outcome in outcomes), outcomes
    assert [outcome.name for outcome in outcomes] == [
        "engine in float32",
        "adapter swap",
        "sleep and wake",
        "full-weight swap",
    ]


def test_branches_attend_alike_on_a_cpu_too() -> None:
    (outcome,) = run_check(check_attention)
    assert outcome.is_passed, outcome
    assert outcome.found.endswith("from SDPA")


def test_a_check_that_fails_says_why_and_those_before_it_count() -> None:
    assert list(run_check(two_and_then_an_error)) == [
        CheckOutcome("one", True, "well"),
        CheckOutcome("two", True, "well too"),
        CheckOutcome("two_and_then_an_error", False, "three is not"),
    ]
    assert list(run_check(surprise)) == [CheckOutcome("surprise", False, "KeyError: 'what'")]


def test_a_process_that_dies_is_a_check_that_failed() -> None:
    assert list(run_check(death))[-1] == CheckOutcome("death", False, "its process ended with exit code 3")


def test_an_engine_that_serves_other_weights_is_noticed(tmp_path) -> None:
    model, changed, adapter = gpu_checks._make_models(tmp_path)
    with load_engine(model, "transformers", dtype="float32") as engine:
        assert gpu_checks._compare(engine, model, None, 1e-3).endswith("from transformers")
        with pytest.raises(RunError, match=r"Expected log-probabilities within 0\.001 of transformers', found \d"):
            gpu_checks._compare(engine, changed, None, 1e-3)
        with pytest.raises(RunError, match=r"within 0\.25 of"):
            gpu_checks._compare(engine, model, adapter, gpu_checks.BFLOAT16_TOLERANCE)
