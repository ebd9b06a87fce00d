"""How fast episodes are collected, where the time goes, and what it is worth not to wait for the slowest answer.

- steps: environments of BabyAI-Text whose prompts only grow, actions scored. The shares add up to 1: environments,
  prompts, llmgym's own Python around vLLM (jobs, asks, answers, collector, which tail is where), the copies of kept
  tails, vLLM's Python, and the model.
- barrier: a few environments with short prompts and free answers, each of 4 to 64 tokens. The rival is the lock-step
  loop, which waits for the longest answer of every step; both collect the same trajectories. What waiting costs is the
  share of a forward pass that does not depend on how many answers it goes on with: on a CPU and a model this small,
  little beside large batches.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from llmgym.bench.models import prepare_bench_model
from llmgym.bench.report import Report, best_seconds, make_report
from llmgym.bench.stopwatch import Stopwatch
from llmgym.engine import load_engine
from llmgym.engine.asks import Backend
from llmgym.engine.policy_engine import PolicyEngine
from llmgym.engine.vllm_backend import VLLMBackend
from llmgym.rollout.async_collector import AsyncCollector
from llmgym.rollout.collector import Collector
from llmgym.run.venv import make_envs, make_venv
from llmgym.text.histories import History
from llmgym.text.prompt import PromptSettings
from llmgym.types import Acting, Choice, Context, Engine, Parser, Trajectory

__all__ = ["Workload", "run"]

PARTS = ("environments", "prompts", "llmgym", "tails", "vllm", "model")


@dataclass(frozen=True, slots=True)
class Workload:
    """How much is measured.

    Attributes:
        env: id of the environment.
        num_envs: environments stepped together.
        num_steps: steps of each, actions scored.
        num_writing_envs: environments in which answers are written.
        num_written_steps: steps of each.
        answer_tokens: fewest and most tokens of a written answer.
        repeats: how often each time is taken; the least counts.
    """

    env: str = "llmgym/BabyAI-GoToLocal-v0"
    num_envs: int = 64
    num_steps: int = 50
    num_writing_envs: int = 8
    num_written_steps: int = 48
    answer_tokens: tuple[int, int] = (4, 64)
    repeats: int = 2


def run(workload: Workload | None = None) -> Report:
    """Measure, and return environment steps a second, shares of the time, and the ratio of the two loops.

    Args:
        workload: how much; the default takes about a minute.
    """
    work = workload or Workload()
    with tempfile.TemporaryDirectory() as folder:
        model = prepare_bench_model("tiny", Path(folder) / "tiny")
        with load_engine(model) as engine:
            return make_report(_measure_steps(engine, work) | _measure_barrier(engine, work))


def _measure_steps(engine: Engine, work: Workload) -> dict[str, float]:
    """Collect with scored actions, once to warm up, then with a stopwatch at every seam."""
    venv = make_venv(work.env, work.num_envs)
    settings = _settings(Acting(), seed=0)
    Collector(venv, engine, **settings).collect(2)
    collector = Collector(venv, engine, **{**settings, "seed": 1})
    watch = Stopwatch()
    seams: list[tuple[Any, str, str]] = [
        (venv, "step", "environments"),
        (venv, "reset", "environments"),
        (History, "begin", "prompts"),
        (History, "extend", "prompts"),
        *_engine_seams(engine),
    ]
    started = perf_counter()
    with watch.watching(*seams), watch.part("llmgym"):
        collector.collect(work.num_steps)
    seconds = perf_counter() - started
    venv.close()
    net = watch.net_seconds()
    shares = {f"steps_share_{part}": net.get(part, 0.0) / sum(net.values()) for part in PARTS}
    return {"steps_env_steps_per_second": work.num_envs * work.num_steps / seconds, "steps_seconds": seconds, **shares}


def _engine_seams(engine: Engine) -> list[tuple[Any, str, str]]:
    """Return where vLLM's own time begins, and within it the model's and ours."""
    from llmgym.engine.vllm_tails import TailConnector

    backend = _backend(engine)
    inner = backend.llm.llm_engine
    (model,) = backend.llm.apply_model(lambda model: model)
    ours = ("get_num_new_matched_tokens", "update_state_after_alloc", "build_connector_meta", "request_finished")
    return [
        (inner, "step", "vllm"),
        (inner, "add_request", "vllm"),
        (model, "forward", "model"),
        (model, "compute_logits", "model"),
        *((TailConnector, name, "llmgym") for name in ours),
        (TailConnector, "start_load_kv", "tails"),
        (TailConnector, "wait_for_save", "tails"),
    ]


def _measure_barrier(engine: Engine, work: Workload) -> dict[str, float]:
    """Let both loops write the same answers, turn about."""
    writer = _VaryingLengths(_backend(engine), *work.answer_tokens)
    settings = {**_settings(Acting("text", stop=()), seed=2), "prompt": PromptSettings("window", 1)}
    collected: dict[str, list[Trajectory]] = {}

    def locked() -> None:
        venv = make_venv(work.env, work.num_writing_envs)
        collected["locked"] = Collector(venv, writer, **settings).collect(work.num_written_steps)
        venv.close()

    def free() -> None:
        envs = make_envs(work.env, work.num_writing_envs)
        collected["free"] = AsyncCollector(envs, writer, **settings).collect(work.num_written_steps)
        for env in envs:
            env.close()

    locked_seconds, free_seconds = best_seconds(locked, free, repeats=work.repeats)
    answers = {name: _answers(trajectories) for name, trajectories in collected.items()}
    num_same = sum(one == other for one, other in zip(answers["locked"], answers["free"], strict=True))
    lengths = [len(answer) for answer in answers["free"]]
    return {
        "barrier_lock_step_seconds": locked_seconds,
        "barrier_free_seconds": free_seconds,
        "barrier_ratio_lock_step_over_free": locked_seconds / free_seconds,
        "barrier_same_answers_share": num_same / len(lengths),
        "barrier_shortest_answer_tokens": min(lengths),
        "barrier_mean_answer_tokens": sum(lengths) / len(lengths),
        "barrier_longest_answer_tokens": max(lengths),
    }


def _backend(engine: Engine) -> VLLMBackend:
    backend = getattr(engine, "backend", None)
    assert isinstance(backend, VLLMBackend), "the engine was loaded with vLLM"
    return backend


def _answers(trajectories: Sequence[Trajectory]) -> list[tuple[int, ...]]:
    """Return what was sampled in every turn."""
    return [turn.sampled_ids for trajectory in trajectories for turn in trajectory.turns]


def _settings(acting: Acting, *, seed: int) -> dict[str, Any]:
    """Return what both collectors are made with."""
    return {
        "prompt": PromptSettings(),
        "acting": acting,
        "seed": seed,
        "episode_seed": lambda env_index, number: 1000 * env_index + number,
    }


class _VaryingLengths(PolicyEngine):
    """The same engine, in which every written answer has a length of its own, drawn from its seed."""

    def __init__(self, backend: Backend, fewest: int, most: int) -> None:
        super().__init__(backend)
        self._fewest, self._most = fewest, most

    def act(
        self,
        contexts: Sequence[Context],
        candidates: Sequence[Sequence[Context]],
        acting: Acting,
        seed: int | Sequence[int] | None = None,
        *,
        parse: Parser | None = None,
        adapter: str = "policy",
    ) -> list[Choice]:
        """Start one decision a context, and wait for all."""
        assert isinstance(seed, Sequence), "collectors give a seed a context"
        tickets = [
            self.start(context, options, acting, one, parse=parse, adapter=adapter)
            for context, options, one in zip(contexts, candidates, seed, strict=True)
        ]
        made: dict[int, Choice] = {}
        while len(made) < len(tickets):
            made.update(self.advance())
        return [made[ticket] for ticket in tickets]

    def start(
        self,
        context: Context,
        candidates: Sequence[Context],
        acting: Acting,
        seed: int | None = None,
        *,
        parse: Parser | None = None,
        adapter: str = "policy",
    ) -> int:
        """Begin one decision, in which so many tokens are written as its seed says."""
        longest = random.Random(seed).randint(self._fewest, self._most)
        changed = replace(acting, max_new_tokens=longest)
        return super().start(context, candidates, changed, seed, parse=parse, adapter=adapter)
