"""How much faster a run is whose collecting and learning overlap, and how well it learns.

A tiny model clones a few demonstrations of a small level of BabyAI, and learns on by PPO, as `llmgym train` does, with
the same environment steps whatever `collect.staleness` is. Runs follow each other, so that each has the whole machine.
Rates are from the end of the first update to that of the last, medians over training seeds, so that a machine that is
busy with something else for a while changes none; success is measured on the same held-out episodes for all.
Intervals are over training seeds: rliable's stratified bootstrap of the mean.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from llmgym.bench.report import Report, make_report
from llmgym.config import CloneSettings, CollectSettings, EvaluationSettings, RunConfig
from llmgym.learner.settings import LearnerSettings
from llmgym.rollout.batch import ReturnSettings
from llmgym.rollout.statistics import over_training_seeds
from llmgym.run.folder import RunFolder
from llmgym.run.training import train

__all__ = ["Outcome", "Workload", "play_seed", "run"]

_logger = logging.getLogger(__name__)

CONFIG = RunConfig(
    env="llmgym/BabyAI-GoToLocalS5N2-v0",
    updates=16,
    checkpoint_every=16,
    clone=CloneSettings(episodes=20),
    collect=CollectSettings(num_envs=32, steps_per_update=16),
    returns=ReturnSettings(gamma=0.97, lam=0.95),
    learner=LearnerSettings(num_threads=1),
    algorithm={"name": "ppo", "epochs": 2},
    evaluation=EvaluationSettings(episodes=256, num_envs=64),
)


@dataclass(frozen=True)
class Workload:
    """How much is measured.

    Attributes:
        config: of every run, but for what is set here.
        stalenesses: settings of `collect.staleness`; others are compared with the first.
        seeds: training seeds.
    """

    config: RunConfig = field(default_factory=lambda: CONFIG)
    stalenesses: tuple[int, ...] = (0, 1, 4)
    seeds: tuple[int, ...] = (0, 1, 2)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run gave.

    Attributes:
        success: share of held-out episodes that succeeded in the end.
        env_steps_per_second: of the clock on the wall, learning included.
        updates_per_second: likewise.
        staleness: mean over updates of the versions that turns were behind.
        weight_clipped: mean over updates of the share of units whose weight was cut off.
        wait_share: share of that time in which the learner waited for experience.
    """

    success: float
    env_steps_per_second: float
    updates_per_second: float
    staleness: float
    weight_clipped: float
    wait_share: float


def run(workload: Workload | None = None) -> Report:
    """Measure, and return for every staleness the rates, and the mean success over seeds with its interval.

    Args:
        workload: how much; the default takes about twenty minutes on two cores.
    """
    work = workload or Workload()
    outcomes: dict[str, list[Outcome]] = {}
    # Seed by seed, so that a machine that is busy for a while is so for all of them.
    for seed in work.seeds:
        for staleness in work.stalenesses:
            collect = replace(work.config.collect, staleness=staleness)
            outcome = _in_own_process(replace(work.config, seed=seed, collect=collect))
            outcomes.setdefault(f"staleness{staleness}", []).append(outcome)
            told = "seed %d, staleness %d: %.0f env steps/s, success %.3f"
            _logger.info(told, seed, staleness, outcome.env_steps_per_second, outcome.success)
    figures: dict[str, float] = {}
    base = next(iter(outcomes.values()))
    for name, of_seeds in outcomes.items():
        figures |= _figures(name, of_seeds)
        figures[f"{name}_speedup"] = _median(of_seeds, "env_steps_per_second") / _median(base, "env_steps_per_second")
    return make_report(figures)


def play_seed(config: RunConfig) -> Outcome:
    """Train, and read from the run's folder how it went."""
    with tempfile.TemporaryDirectory() as parent:
        path = Path(parent) / "run"
        train(config, path)
        rows = RunFolder.open(path).read_metrics()
        success = json.loads((path / "result.json").read_text(encoding="utf-8"))["trained"]["success"]
    seconds = rows[-1]["seconds"] - rows[0]["seconds"]
    return Outcome(
        success=success,
        env_steps_per_second=(rows[-1]["env_steps"] - rows[0]["env_steps"]) / seconds,
        updates_per_second=(len(rows) - 1) / seconds,
        staleness=float(np.mean([row.get("staleness", 0.0) for row in rows])),
        weight_clipped=float(np.mean([row.get("weight_clipped", 0.0) for row in rows])),
        wait_share=sum(row["wait_seconds"] for row in rows[1:]) / seconds,
    )


def _in_own_process(config: RunConfig) -> Outcome:
    """Train in a process that nothing was computed in before."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(play_seed, config).result()


def _figures(name: str, outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Return success with its interval, and the medians and means over seeds of the rest."""
    scores_of_seeds = np.array([[outcome.success] for outcome in outcomes])
    success = over_training_seeds(scores_of_seeds, lambda scores: scores.mean(axis=-1), 0.95)
    rates, means = ("env_steps_per_second", "updates_per_second", "wait_share"), ("staleness", "weight_clipped")
    return {
        f"{name}_success": success.value,
        f"{name}_low": success.low,
        f"{name}_high": success.high,
        **{f"{name}_{figure}": _median(outcomes, figure) for figure in rates},
        **{f"{name}_{figure}": _mean(outcomes, figure) for figure in means},
    }


def _median(outcomes: Sequence[Outcome], figure: str) -> float:
    return float(np.median([getattr(outcome, figure) for outcome in outcomes]))


def _mean(outcomes: Sequence[Outcome], figure: str) -> float:
    return float(np.mean([getattr(outcome, figure) for outcome in outcomes]))
