"""How fast environments step: plain minigrid, the same in text, and many of them, one by one or all at once.

Actions are drawn at random, and steps are counted on one core. Where nothing else is said, an episode that is over is
followed by the next one, so that drawing episodes counts too. The rivals:

- plain: minigrid's level itself, with the observation that it makes; resets are not counted, nor are they for text.
- sync: Gymnasium's `SyncVectorEnv` of text levels.
- batch: `vectorization_mode="vector_entry_point"`, all levels at once.

The figures named unending are of missions to put one thing next to another, without a limit of steps: their episodes
hardly ever end, so that they are about stepping alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import gymnasium as gym
import numpy as np

import llmgym  # noqa: F401  (registers the environments)
from llmgym.bench.report import Report, make_report

__all__ = ["Workload", "run"]

_logger = logging.getLogger(__name__)

_MODES = {"sync": "sync", "batch": "vector_entry_point"}
_UNENDING = {"kind": "putnext", "max_steps": 10**9}


@dataclass(frozen=True, slots=True)
class Workload:
    """How much is measured.

    Attributes:
        levels: names of levels, without prefix and version.
        single_steps: steps of one environment.
        sizes: of the vector environments.
        vector_seconds: how long each vector environment is stepped.
        repeats: how often each time is taken, in turns; the best counts.
    """

    levels: tuple[str, ...] = ("GoToLocal", "MixedTrainLocal")
    single_steps: int = 2000
    sizes: tuple[int, ...] = (1, 8, 64, 256)
    vector_seconds: float = 1.0
    repeats: int = 3


def run(workload: Workload | None = None) -> Report:
    """Measure, and return steps per second of one core, and ratios.

    Args:
        workload: how much; the default takes about two minutes.
    """
    work = workload or Workload()
    figures: dict[str, float] = {}
    for level in work.levels:
        figures |= _compare_single(level, work)
        figures |= _compare_vectors(level, level, {}, work)
        _logger.info("%s: measured", level)
    return make_report(figures | _compare_vectors("unending", "MixedTrainLocal", _UNENDING, work))


def _compare_single(level: str, work: Workload) -> dict[str, float]:
    """Time steps of one level with minigrid's observation, and with texts; drawing episodes does not count."""
    env_id = f"llmgym/BabyAI-{level}-v0"
    text = gym.make(env_id, disable_env_checker=True)
    # The same level below the text: minigrid's own where it has one, with nothing of ours but how it draws episodes.
    plain = gym.make(env_id, disable_env_checker=True).unwrapped
    seconds = {"plain": float("inf"), "text": float("inf")}
    for _ in range(work.repeats):
        for name, env in (("plain", plain), ("text", text)):
            seconds[name] = min(seconds[name], _seconds_per_step(env, work.single_steps))
    return {
        f"{level}_plain_steps_per_second": 1 / seconds["plain"],
        f"{level}_text_steps_per_second": 1 / seconds["text"],
        f"{level}_text_over_plain_seconds": seconds["text"] / seconds["plain"],
    }


def _seconds_per_step(env: gym.Env[Any, Any], num_steps: int) -> float:
    actions = np.random.default_rng(0).integers(6, size=num_steps).tolist()
    env.reset(seed=0)
    seconds = 0.0
    for action in actions:
        started = perf_counter()
        _, _, terminated, truncated, _ = env.step(action)
        seconds += perf_counter() - started
        if terminated or truncated:
            env.reset()
    return seconds / num_steps


def _compare_vectors(name: str, level: str, settings: dict[str, Any], work: Workload) -> dict[str, float]:
    """Time vector environments of all sizes, one by one and at once, drawing episodes included."""
    figures: dict[str, float] = {}
    for size in work.sizes:
        stepping = {mode: _start(level, size, mode, settings) for mode in _MODES}
        best = dict.fromkeys(_MODES, 0.0)
        for _ in range(work.repeats):
            for mode, steps_per_second in stepping.items():
                best[mode] = max(best[mode], steps_per_second(work.vector_seconds))
        figures |= {f"{name}_{mode}_{size}_steps_per_second": value for mode, value in best.items()}
        figures[f"{name}_batch_over_sync_{size}_steps"] = best["batch"] / best["sync"]
    return figures


def _start(level: str, size: int, mode: str, settings: dict[str, Any]) -> Callable[[float], float]:
    """Make a vector environment, and return what steps it for some seconds and tells the steps per second."""
    venv = gym.make_vec(f"llmgym/BabyAI-{level}-v0", num_envs=size, vectorization_mode=_MODES[mode], **settings)
    rng = np.random.default_rng(0)
    venv.reset(seed=0)

    def steps_per_second(duration: float) -> float:
        num_steps, started = 0, perf_counter()
        while (seconds := perf_counter() - started) < duration:
            venv.step(rng.integers(6, size=size))
            num_steps += size
        return num_steps / seconds

    return steps_per_second
