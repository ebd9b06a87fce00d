"""The examples with hosted models run, and do what they say."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def lamorel_epochs(*overrides: str) -> list[dict[str, float]]:
    """Run the script in Lamorel's manner as a program; return what it prints of each epoch."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "lamorel_ppo.py"), *overrides],
        capture_output=True, text=True, timeout=300, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = re.findall(r"reward a turn (\S+), loss (\S+), first ratio (\S+)", done.stdout)
    return [dict(zip(("reward", "loss", "ratio"), map(float, line), strict=True)) for line in lines]


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["rl_script_args.use_lora=true", "lamorel_args.llm_args.load_in_4bit=true"],
        ["lamorel_args.distributed_setup_args.n_llm_processes=2", "rl_script_args.number_envs=1"],
    ],
    ids=["all weights", "LoRA on 4 bits", "two processes and one environment"],
)
def test_a_script_in_lamorels_manner_trains(overrides: list[str]) -> None:
    epochs = lamorel_epochs(*overrides)
    assert len(epochs) == 3
    # Who acts is who learns: before the first step of an update, every probability ratio is 1.
    assert [epoch["ratio"] for epoch in epochs] == pytest.approx([1.0] * 3, abs=1e-3)


def test_token_ppo_learns_to_say_what_it_is_asked_for() -> None:
    shares = runpy.run_path(str(EXAMPLES / "token_ppo.py"))["main"]()
    assert sum(shares[-3:]) / 3 > sum(shares[:3]) / 3 + 0.15


def test_saycan_solves_more_with_affordances(capsys: pytest.CaptureFixture[str]) -> None:
    example = runpy.run_path(str(EXAMPLES / "saycan.py"))
    solved = example["main"](num_tasks=6)
    assert solved["say and can"] >= 0.5
    assert solved["say and can"] >= solved["say"]
    told = re.findall(r"\d+\. (.*)", capsys.readouterr().out)
    assert set(told) <= set(example["COMMANDS"])


def test_saycan_never_chooses_what_cannot_be_done() -> None:
    example = runpy.run_path(str(EXAMPLES / "saycan.py"))
    table = example["Tabletop"](("red block",), ("red bowl", "blue bowl"))
    command = "robot.pick_and_place(red block, red bowl)"
    chances = dict(zip(example["COMMANDS"], table.affordances(), strict=True))
    possible = [name for name, chance in chances.items() if chance == 1.0]
    assert len(possible) == 4
    assert chances["done()"] == 0.2
    assert command in possible
    table.do("robot.pick_and_place(blue block, red bowl)")
    assert table.places == {}
    table.do(command)
    assert table.is_solved()
    assert not table.can(command)


@pytest.mark.parametrize("weights", ["all", "lora", "4bit"])
def test_ppo_learns_from_what_the_engine_did(weights: str) -> None:
    history = runpy.run_path(str(EXAMPLES / "ppo_babyai.py"))["main"](weights, num_updates=2, num_steps=6)
    assert len(history) == 2
    for metrics in history:
        assert metrics["behaviour_gap"] < 1e-4
        assert metrics["canary_gap"] < 1e-3
    assert history[0]["grad_norm"] > 0
