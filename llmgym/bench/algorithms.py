"""How far each algorithm gets with the same environment steps, from the same clone.

On a small level of BabyAI and on FrozenLake, for every training seed: a tiny model clones a few demonstrations, and
from there every algorithm learns until the steps are used up. Success is measured on the same held-out episodes for
all; random and cloned policies are the first rows. What learns from recorded transitions (ILQL) lets the clone take all
steps, and learns from them then. Intervals are over training seeds: rliable's stratified bootstrap of the mean.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import tempfile
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from llmgym.algorithms.algorithm import Bootstraps, ReadsHeads, compares_states
from llmgym.bench.report import Report, make_report
from llmgym.config import CloneSettings, CollectSettings, EvaluationSettings, RunConfig
from llmgym.engine import load_engine
from llmgym.learner import Learner
from llmgym.learner.settings import LearnerSettings
from llmgym.rollout.batch import ReturnSettings
from llmgym.rollout.statistics import over_training_seeds
from llmgym.run.agents import RandomAgent
from llmgym.run.clone import clone_expert, clone_maker
from llmgym.run.collecting import open_collector
from llmgym.run.experience import collect_experience, episode_seeds, learn_from
from llmgym.run.guided import guided
from llmgym.run.learning import RunLearner, open_learner
from llmgym.run.measure import measure_agent, measure_engine
from llmgym.run.models import prepare_model
from llmgym.run.offline import OfflineCollector
from llmgym.run.report import SilentReporter
from llmgym.run.seeds import training_seed
from llmgym.types import Engine, Trajectory

__all__ = ["Outcome", "Workload", "play_seed", "run"]

_logger = logging.getLogger(__name__)

SHARP = {"clip": 0.2, "clip_high": 0.28}
"""A turn here is a single draw: the clips that GSPO's paper has for long answers would let nothing move."""
ALGORITHMS: Mapping[str, Mapping[str, Any]] = {
    "ppo": {"epochs": 2, "minibatch_turns": 256},
    "a2c": {"minibatch_turns": 512},
    "reinforce++": {"minibatch_turns": 256, "entropy_coef": 0.01},
    "rloo": {"minibatch_turns": 512, "entropy_coef": 0.01},
    "grpo": {"minibatch_turns": 256, "entropy_coef": 0.01},
    "dr-grpo": {"minibatch_turns": 256, "entropy_coef": 0.01},
    "dapo": {"minibatch_turns": 256, "entropy_coef": 0.01, "max_collections": 2},
    "gspo": {"minibatch_turns": 256, "entropy_coef": 0.01, **SHARP},
    "gigpo": {"minibatch_turns": 256, "entropy_coef": 0.01},
    "rejection": {"minibatch_turns": 256, "kept_share": 0.5},
    "ilql": {"minibatch_turns": 128, "tau": 0.9, "alpha": 0.05, "beta": 20.0},
}
OFFLINE_PASSES = 8
"""How often what learns from recorded transitions goes through them."""


@dataclass(frozen=True)
class Workload:
    """How much is measured.

    Attributes:
        envs: name to id and keyword arguments of each environment.
        algorithms: name to settings.
        seeds: training seeds.
        num_env_steps: environment steps of each algorithm on each environment with each seed.
        clone_episodes: demonstrations that are cloned first.
        eval_episodes: held-out episodes.
        num_envs: environments stepped together.
        group_size: of them, how many begin alike.
        num_processes: seeds measured at the same time, each on a core; as many as there are cores if None.
        backend: which engine answers.
    """

    envs: Mapping[str, tuple[str, Mapping[str, Any]]] = field(
        default_factory=lambda: {
            "babyai": ("llmgym/BabyAI-GoToLocalS5N2-v0", {}),
            "frozenlake": ("llmgym/FrozenLake-v0", {"is_slippery": False, "max_episode_steps": 30}),
        }
    )
    algorithms: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: ALGORITHMS)
    seeds: tuple[int, ...] = (0, 1, 2)
    num_env_steps: int = 8192
    clone_episodes: int = 10
    eval_episodes: int = 128
    num_envs: int = 32
    group_size: int = 8
    num_processes: int | None = None
    backend: Any = "vllm"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one seed gave in one environment.

    Attributes:
        success: share of held-out episodes that succeed, by policy: random, clone, and every algorithm.
        env_steps: environment steps that each algorithm took: the budget, and what its last collection goes beyond it.
        seconds: that each algorithm took.
    """

    success: Mapping[str, float]
    env_steps: Mapping[str, int]
    seconds: Mapping[str, float]


def run(workload: Workload | None = None) -> Report:
    """Measure, and return for every environment and policy the mean success over seeds, with its interval.

    Args:
        workload: how much; the default takes about 80 minutes of one core, shared out among all there are.
    """
    work = workload or Workload()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = [(name, seed) for name in work.envs for seed in work.seeds]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(work.num_processes or cores, len(jobs)), mp_context=context) as pool:
        running = {pool.submit(play_seed, work, name, seed): (name, seed) for name, seed in jobs}
        outcomes = {}
        for future in as_completed(running):
            name, seed = running[future]
            outcomes[name, seed] = future.result()
            _logger.info("%s, seed %d: measured (%d of %d)", name, seed, len(outcomes), len(jobs))
    figures: dict[str, float] = {}
    for name in work.envs:
        of_env = [outcomes[name, seed] for seed in work.seeds]
        for policy in ("random", "clone", *work.algorithms):
            rates = np.array([[outcome.success[policy]] for outcome in of_env])
            estimate = over_training_seeds(rates, lambda scores: scores.mean(axis=-1), 0.95)
            figures[f"{name}_{policy}_success"] = estimate.value
            figures[f"{name}_{policy}_low"] = estimate.low
            figures[f"{name}_{policy}_high"] = estimate.high
        for policy in work.algorithms:
            figures[f"{name}_{policy}_env_steps"] = float(np.mean([one.env_steps[policy] for one in of_env]))
            figures[f"{name}_{policy}_seconds"] = float(np.mean([one.seconds[policy] for one in of_env]))
    return make_report(figures)


def play_seed(work: Workload, name: str, seed: int) -> Outcome:
    """Clone, then let every algorithm learn from the clone, in one environment with one seed."""
    config = _config(work, name, seed)
    success: dict[str, float] = {}
    env_steps: dict[str, int] = {}
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        model = prepare_model(config, Path(folder) / "model")
        clone = stack.enter_context(open_learner(clone_maker(config, model), config.learner, Path(folder) / "learners"))
        clone_expert(config, clone, SilentReporter(), Path(folder) / "log.jsonl")
        clone.save(Path(folder) / "clone")
        engine = stack.enter_context(load_engine(model, config.backend))
        success["random"] = _measure_random(config)
        clone.publish(engine, version=0)
        success["clone"] = _measure(config, engine)
        for algorithm, settings in work.algorithms.items():
            started = perf_counter()
            chosen = replace(config, algorithm={"name": algorithm, **settings})
            with closing(_from_clone(Path(folder) / "clone", chosen)) as learner:
                env_steps[algorithm] = _learn(chosen, learner, engine, work.num_env_steps)
                success[algorithm] = _measure(chosen, guided(engine, learner))
            seconds[algorithm] = perf_counter() - started
    return Outcome(success, env_steps, seconds)


def _from_clone(folder: Path, config: RunConfig) -> Learner:
    """Return who goes on from the clone: with its critic, or with new heads where the algorithm has some of its own."""
    algorithm = config.make_algorithm()
    if not isinstance(algorithm, ReadsHeads):
        return Learner.load(folder, num_threads=1)
    model = str(folder / "model")
    return Learner(model, algorithm=algorithm, acting=config.acting, num_threads=1, seed=config.seed)


def _config(work: Workload, name: str, seed: int) -> RunConfig:
    env_id, env_settings = work.envs[name]
    return RunConfig(
        env=env_id,
        env_settings=dict(env_settings),
        seed=seed,
        backend=work.backend,
        clone=CloneSettings(episodes=work.clone_episodes),
        collect=CollectSettings(num_envs=work.num_envs, steps_per_update=16, group_size=work.group_size),
        returns=ReturnSettings(gamma=0.97, lam=0.95),
        learner=LearnerSettings(num_threads=1),
        evaluation=EvaluationSettings(episodes=work.eval_episodes, num_envs=min(64, work.eval_episodes)),
    )


def _learn(config: RunConfig, learner: RunLearner, engine: Engine, num_env_steps: int) -> int:
    """Let an algorithm learn until the steps are used up; return how many it took."""
    algorithm = config.make_algorithm()
    learner.set_algorithm(algorithm, learning_rate=config.learner.learning_rate, optimizer=config.learner.optimizer)
    learner.publish(engine, version=0)
    is_offline = isinstance(algorithm, Bootstraps)
    taken, recorded = 0, list[Trajectory]()
    with open_collector(
        config.env,
        config.env_settings,
        config.collect.num_envs,
        engine,
        barrier=True,
        prompt=config.prompt,
        acting=config.acting,
        seed=training_seed(config.seed, 0),
        episode_seed=episode_seeds(config, algorithm, 0),
        keys_states=compares_states(algorithm),
    ) as collector:
        while taken < num_env_steps:
            trajectories = collect_experience(collector, algorithm, config.collect, config.returns)
            taken += sum(len(trajectory.turns) for trajectory in trajectories)
            if is_offline:
                recorded += trajectories
                continue
            learn_from(trajectories, learner, config.returns)
            learner.publish(engine)
    if is_offline:
        replay = OfflineCollector(recorded, num_envs=config.collect.num_envs, seed=config.seed, num_done=0)
        for _ in range(OFFLINE_PASSES * len(recorded) // config.collect.num_envs):
            learn_from(replay.collect_episodes(1), learner, config.returns)
        learner.publish(engine)
    return taken


def _measure(config: RunConfig, engine: Engine) -> float:
    settings = config.evaluation
    return measure_engine(
        engine,
        config.env,
        config.env_settings,
        episodes=settings.episodes,
        num_envs=settings.num_envs,
        prompt=config.prompt,
        acting=config.acting,
        reporter=SilentReporter(),
    ).success


def _measure_random(config: RunConfig) -> float:
    settings = config.evaluation
    return measure_agent(
        RandomAgent(),
        config.env,
        config.env_settings,
        episodes=settings.episodes,
        num_envs=settings.num_envs,
        reporter=SilentReporter(),
    ).success
