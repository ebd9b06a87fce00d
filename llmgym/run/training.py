"""Training: the loop that the whole package is for, from the first prompt to the last checkpoint.

Build or load a model; clone the environment's expert; then, again and again: collect turns with the engine, estimate
advantages, update the learner, and swap its weights into the running engine.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from llmgym.config import RunConfig
from llmgym.engine import check_engine, load_engine
from llmgym.engine.parser import load_parser
from llmgym.errors import EnvError
from llmgym.learner import Learner
from llmgym.learner.group import MakesLearner
from llmgym.memory import PeakMemory
from llmgym.rollout.store import write_trajectories
from llmgym.run.agents import RANDOM, RandomAgent
from llmgym.run.broken import kept_if_broken
from llmgym.run.clone import clone_expert, clone_maker
from llmgym.run.correcting import correct_clone
from llmgym.run.experience import learn_from
from llmgym.run.folder import RunFolder, write_whole
from llmgym.run.guided import guided
from llmgym.run.learning import RunLearner, open_learner
from llmgym.run.measure import measure_agent, measure_engine
from llmgym.run.metrics import MetricsLog, RunningEpisodes, unparsed_share
from llmgym.run.models import check_model, prepare_model, served_model
from llmgym.run.offline import check_offline
from llmgym.run.pipeline import Experience, open_pipeline
from llmgym.run.plot import plot_learning_curve
from llmgym.run.report import Reporter, SilentReporter
from llmgym.run.results import TrainResult, eval_row
from llmgym.run.showing import check_demonstrations
from llmgym.run.venv import check_env_id
from llmgym.types import Engine

__all__ = ["train"]

STAGES = ("random", "clone", "corrected", "trained")
"""Policies that a run measures, in order."""


@dataclass(frozen=True)
class _Run:
    """What every stage of a run needs."""

    config: RunConfig
    folder: RunFolder
    reporter: Reporter


def train(
    config: RunConfig, run_dir: Path | str, reporter: Reporter | None = None, *, resume: bool = False
) -> TrainResult:
    """Train a policy as a configuration says, and measure it.

    Args:
        config: what to do; where a run is resumed, the configuration in its folder counts.
        run_dir: a new or empty folder, or, to resume, one that a run has left.
        reporter: who watches.
        resume: continue from the newest complete checkpoint.

    Raises:
        LLMGymError: with one line that says what was expected, what was found, and what to do.
    """
    started = time.monotonic()
    reporter = reporter or SilentReporter()
    try:
        run = _open(config, Path(run_dir), reporter, resume)
        num_done, checkpoint = run.folder.newest_checkpoint() if resume else (0, None)
        make = _prepare(run) if checkpoint is None else partial(Learner.load, checkpoint)
        rows = run.folder.forget_after(num_done)
        seconds_before = rows[-1]["seconds"] if rows else 0.0
        with ExitStack() as stack:
            # A run that collects while it learns has its learner in a process of its own.
            is_apart = run.config.collect.staleness > 0
            opened = open_learner(make, run.config.learner, run.folder.learner_logs, is_apart=is_apart)
            learner = stack.enter_context(opened)
            if checkpoint is None:
                clone_expert(run.config, learner, reporter, run.folder.cloning)
                if run.config.clone.rounds:
                    learner.save(run.folder.clone)
                learner.save(run.folder.checkpoint(0))
            engine = stack.enter_context(_load_engine(run))
            learner.publish(engine, version=learner.version)
            if run.config.clone.is_wanted and "clone" not in run.folder.read_evaluations():
                _measure(run, "clone", engine)
            if run.config.clone.rounds and num_done == 0:
                _correct(run, learner, engine)
            learner.set_algorithm(
                run.config.make_algorithm(),
                learning_rate=run.config.learner.learning_rate,
                optimizer=run.config.learner.optimizer,
            )
            _reinforce(run, learner, engine, num_done, started - seconds_before)
            _measure_trained(run, guided(engine, learner))
        return _conclude(run, seconds_before + time.monotonic() - started)
    finally:
        reporter.close()


def _correct(run: _Run, learner: RunLearner, engine: Engine) -> None:
    """Let the expert correct the clone, and measure what comes of it; what an interrupted run has done stays done."""
    folder = run.folder
    correct_clone(
        run.config,
        learner,
        engine,
        run.reporter,
        log=folder.cloning,
        save=lambda: learner.save(folder.checkpoint(0)),
    )
    if "corrected" not in folder.read_evaluations():
        _measure(run, "corrected", engine)


def _reinforce(run: _Run, learner: RunLearner, engine: Engine, num_done: int, started: float) -> None:
    """Collect, learn and swap until the updates are done.

    Args:
        num_done: updates that were taken before.
        started: when the run would have begun had it never been interrupted, on the monotonic clock.
    """
    config, folder = run.config, run.folder
    episodes = RunningEpisodes(config.collect.num_envs)
    env_steps = next((row["env_steps"] for row in reversed(folder.read_metrics())), 0)
    opened = open_pipeline(
        config, learner, engine, num_updates=config.updates - num_done, num_done=num_done, reporter=run.reporter
    )
    done, is_learning = num_done, False
    try:
        with opened as pipeline, MetricsLog(folder) as log:
            run.reporter.stage("reinforcement learning", config.updates, "updates")
            for update in range(num_done + 1, config.updates + 1):
                begun, memory = time.monotonic(), PeakMemory()
                experience = pipeline.take()
                taken = time.monotonic()
                trajectories = experience.trajectories
                is_learning = True
                learner.scale_learning_rate(config.learner.learning_rate_factor(update, config.updates))
                with kept_if_broken(folder.broken, f"update-{update:06d}", learner, trajectories, run.reporter):
                    metrics = learn_from(trajectories, learner, config.returns, config.collect)
                learned = time.monotonic()
                is_kept = update % config.checkpoint_every == 0 or update == config.updates
                swap = pipeline.publish(learner, is_kept=is_kept)
                env_steps += experience.num_env_steps
                row = {
                    "update": update,
                    "env_steps": env_steps,
                    "seconds": time.monotonic() - started,
                    **episodes.ended(trajectories),
                    **unparsed_share(trajectories, config.acting),
                    **metrics,
                    **swap,
                    "policy_version": engine.version,
                    **_pace(experience, begun, taken, learned),
                    "peak_memory_gib": memory.gib,
                }
                log.write(row)
                done, is_learning = update, False
                if is_kept:
                    write_trajectories(folder.trajectories / f"update-{update:06d}.jsonl", trajectories)
                    learner.save(folder.checkpoint(update))
                run.reporter.advance(update, row)
    except (KeyboardInterrupt, EnvError):
        # In the middle of an update the weights are neither the old nor the new ones: then the last checkpoint counts.
        if not is_learning:
            learner.save(folder.checkpoint(done))
        raise


def _pace(experience: Experience, begun: float, taken: float, learned: float) -> dict[str, float]:
    """Return how long the parts of an update that ends now took, from the times when they were over.

    Where collecting and learning overlap, the learner waits less than collecting takes.
    """
    return {
        "env_steps_per_second": experience.num_env_steps / experience.seconds,
        "collect_seconds": experience.seconds,
        "wait_seconds": taken - begun,
        "learn_seconds": learned - taken,
        "swap_seconds": time.monotonic() - learned,
    }


def _open(config: RunConfig, path: Path, reporter: Reporter, resume: bool) -> _Run:
    """Open or create the run folder, after what can be wrong with the configuration has been looked for."""
    if resume:
        folder = RunFolder.open(path)
        config = folder.config()
    check_env_id(config.env)
    check_model(config.model)
    if config.acting.parser:
        load_parser(config.acting.parser)
    if not resume:
        check_demonstrations(config)
        check_offline(config)
        folder = RunFolder.create(path, config)
    return _Run(config, folder, reporter)


def _prepare(run: _Run) -> MakesLearner:
    """Build the model, measure the random policy, and return what makes the learner."""
    run.reporter.stage("model", None, "")
    model = prepare_model(run.config, run.folder.model)
    check_engine(model, run.config.backend, run.config.engine)
    _measure_random(run)
    return clone_maker(run.config, model)


def _load_engine(run: _Run) -> Engine:
    run.reporter.stage("engine", None, "")
    model = served_model(run.config, run.folder)
    return load_engine(model, run.config.backend, **asdict(run.config.engine))


def _measure_random(run: _Run) -> None:
    """Evaluate chance on the held-out episodes, and keep the outcome in the run folder."""
    settings = run.config.evaluation
    run.reporter.stage(f"evaluation: {RANDOM}", settings.episodes, "episodes")
    measured = measure_agent(
        RandomAgent(),
        run.config.env,
        run.config.env_settings,
        episodes=settings.episodes,
        num_envs=settings.num_envs,
        reporter=run.reporter,
    )
    run.folder.write_evaluation(RANDOM, asdict(measured))


def _measure(run: _Run, name: str, engine: Engine) -> None:
    """Evaluate what the engine serves on the held-out episodes, and keep the outcome in the run folder."""
    settings = run.config.evaluation
    run.reporter.stage(f"evaluation: {name}", settings.episodes, "episodes")
    acting = replace(run.config.acting, temperature=settings.temperature)
    measured = measure_engine(
        engine,
        run.config.env,
        run.config.env_settings,
        episodes=settings.episodes,
        num_envs=settings.num_envs,
        prompt=run.config.prompt,
        acting=acting,
        barrier=run.config.collect.barrier,
        reporter=run.reporter,
    )
    run.folder.write_evaluation(name, asdict(measured))


def _measure_trained(run: _Run, engine: Engine) -> None:
    """Evaluate what came of it all; without an update since the last measurement, that one counts."""
    measured = run.folder.read_evaluations()
    before = [measured[name] for name in ("clone", "corrected") if name in measured]
    if run.config.updates == 0 and before:
        run.folder.write_evaluation("trained", before[-1])
    else:
        _measure(run, "trained", engine)


def _conclude(run: _Run, seconds: float) -> TrainResult:
    """Write result.json and the learning curve."""
    config, folder = run.config, run.folder
    evaluations: Mapping[str, Any] = folder.read_evaluations()
    result = {
        "env": config.env,
        "model": config.model,
        "seed": config.seed,
        "updates": config.updates,
        "seconds": seconds,
        **evaluations,
    }
    write_whole(folder.result, json.dumps(result, indent=2) + "\n")
    title = f"{config.env}, seed {config.seed}"
    plot_learning_curve(folder.learning_curve, folder.read_metrics(), evaluations, title, folder.read_rounds())
    rows = tuple(eval_row(name, evaluations[name]) for name in STAGES if name in evaluations)
    return TrainResult(rows, folder.path, seconds)
