"""Training a baseline: measure chance, learn, measure what was learned, and leave everything in a folder."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from llmgym.baselines.drrn import DRRNSettings
from llmgym.baselines.drrn_learner import DRRNLearner
from llmgym.baselines.episodes import EpisodeStream
from llmgym.baselines.folder import SavedBaseline, load_baseline, save_baseline
from llmgym.baselines.kinds import settings_class
from llmgym.baselines.symbolic_ppo import SymbolicPPO, SymbolicPPOSettings
from llmgym.baselines.vocabulary import Vocabulary
from llmgym.errors import ConfigError, RunError
from llmgym.learner.threads import at_work, default_num_threads
from llmgym.run.agents import RANDOM, Agent, RandomAgent
from llmgym.run.folder import RunFolder, write_whole
from llmgym.run.measure import measure_agent
from llmgym.run.metrics import MetricsLog
from llmgym.run.plot import plot_learning_curve
from llmgym.run.report import Reporter, SilentReporter
from llmgym.run.results import TrainResult, eval_row
from llmgym.run.seeds import training_seed
from llmgym.run.venv import make_venv
from llmgym.settings import apply_overrides, from_dict

__all__ = ["BaselineConfig", "baseline_settings", "train_baseline"]

SAVE_EVERY = 50
"""Updates between two savings of what was learned."""
EVALUATION_ENVS = 32


@dataclass(frozen=True)
class BaselineConfig:
    """What `llmgym baseline` does.

    Attributes:
        kind: "drrn" or "symbolic-ppo".
        env: id of a text environment; of a level of BabyAI for symbols.
        steps: of all environments together, to learn from; the last update may go a little further.
        settings: of the learner; their class is that of the kind.
        env_settings: keyword arguments of the environment.
        seed: fixes levels, weights, and draws.
        episodes: held-out episodes to measure with, the same as for every other policy.
    """

    kind: str
    env: str
    steps: int
    settings: DRRNSettings | SymbolicPPOSettings
    env_settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    episodes: int = 256

    def __post_init__(self) -> None:
        if not isinstance(self.settings, settings_class(self.kind)):
            raise ConfigError(
                f"Expected {settings_class(self.kind).__name__} for the baseline {self.kind!r}, found "
                f"{type(self.settings).__name__}. Take them from baseline_settings({self.kind!r})."
            )
        if self.steps < 1 or self.episodes < 1:
            raise ConfigError(
                f"Expected at least one step and one held-out episode, found steps={self.steps} and "
                f"episodes={self.episodes}. Set --steps and --episodes higher."
            )
        if "symbolic" in self.env_settings:
            raise ConfigError(
                "Expected env_settings without symbolic, which follows from the baseline: drrn reads texts, "
                "symbolic-ppo symbols. Leave it out."
            )
        if self.kind == "symbolic-ppo" and not self.env.startswith("llmgym/BabyAI-"):
            raise ConfigError(
                f"Expected a level of BabyAI, which shows symbols, for symbolic-ppo, found {self.env!r}. "
                "Choose one of `llmgym envs BabyAI`, or take drrn, which reads any text."
            )


class BaselineLearner(Protocol):
    """What a baseline learns by."""

    @property
    def policy(self) -> torch.nn.Module:
        """What acts."""
        ...

    @property
    def vocabulary(self) -> Vocabulary:
        """The words it knows."""
        ...

    @property
    def num_env_steps(self) -> int:
        """How long it has learned."""
        ...

    @property
    def num_actions(self) -> int:
        """How many outputs the network has; 0 where it reads the actions."""
        ...

    def update(self, progress: float) -> dict[str, float]:
        """Take steps, learn from them, and return metrics; progress is the share of the training that is done."""
        ...

    def told(self) -> dict[str, float]:
        """Return how the episodes went that have ended since the last answer."""
        ...


def baseline_settings(kind: str, overrides: Sequence[str] = ()) -> DRRNSettings | SymbolicPPOSettings:
    """Return the settings of a baseline, with changes.

    Args:
        kind: "drrn" or "symbolic-ppo".
        overrides: "key=value" with dotted keys and TOML values.

    Raises:
        ConfigError: there is no such baseline, or a key or value fits nothing.
    """
    return from_dict(settings_class(kind), apply_overrides({}, overrides))


def train_baseline(config: BaselineConfig, run_dir: Path | str, reporter: Reporter | None = None) -> TrainResult:
    """Train a baseline as a configuration says, and measure it.

    Args:
        config: what to do.
        run_dir: a new or empty folder.
        reporter: who watches.

    Raises:
        LLMGymError: with one line that says what was expected, what was found, and what to do.
    """
    started = time.monotonic()
    reporter = reporter or SilentReporter()
    settings = {**config.env_settings, **({"symbolic": True} if config.kind == "symbolic-ppo" else {})}
    venv = make_venv(config.env, config.settings.num_envs, settings)
    try:
        folder = _create(Path(run_dir))
        with at_work(default_num_threads()):
            _measure(config, folder, RANDOM, RandomAgent(), reporter)
            learner = _make_learner(config, venv)
            seconds = _learn(config, folder, learner, reporter)
            _measure(config, folder, "trained", load_baseline(folder.path), reporter)
        return _conclude(config, folder, learner, seconds, time.monotonic() - started)
    finally:
        venv.close()
        reporter.close()


def _make_learner(config: BaselineConfig, venv: VectorEnv[Any, Any, Any]) -> BaselineLearner:
    """Begin episodes in the environments, and make who learns from them."""
    stream = EpisodeStream(venv, lambda env_index, number: training_seed(config.seed, env_index, number))
    if isinstance(config.settings, DRRNSettings):
        return DRRNLearner(stream, config.settings, seed=config.seed)
    num_actions: Any = venv.single_action_space
    return SymbolicPPO(stream, int(num_actions.n), config.settings, seed=config.seed)


def _learn(config: BaselineConfig, folder: RunFolder, learner: BaselineLearner, reporter: Reporter) -> float:
    """Learn until the steps are done, and return how many seconds it took; what Ctrl-C cuts off is kept."""
    reporter.stage("learning", config.steps, "env steps")
    started = time.monotonic()
    kept = _kept(config, learner)
    update = 0
    try:
        with MetricsLog(folder) as log:
            while learner.num_env_steps < config.steps:
                begun, num_before = time.monotonic(), learner.num_env_steps
                metrics = learner.update(num_before / config.steps)
                update += 1
                row = {
                    "update": update,
                    "env_steps": learner.num_env_steps,
                    "seconds": time.monotonic() - started,
                    **learner.told(),
                    **metrics,
                    "env_steps_per_second": (learner.num_env_steps - num_before) / (time.monotonic() - begun),
                }
                log.write(row)
                kept = _kept(config, learner)
                if update % SAVE_EVERY == 0:
                    save_baseline(folder.path, *kept)
                reporter.advance(learner.num_env_steps, row)
    except KeyboardInterrupt:
        # In the middle of an update the weights are neither the old nor the new ones: those before it are kept.
        save_baseline(folder.path, *kept)
        reporter.note(f"What was learned in {kept[0].env_steps:,} env steps is kept: llmgym eval {folder.path}")
        raise
    save_baseline(folder.path, *kept)
    return time.monotonic() - started


def _kept(config: BaselineConfig, learner: BaselineLearner) -> tuple[SavedBaseline, dict[str, Tensor]]:
    """Return a copy of what was learned."""
    saved = SavedBaseline(
        kind=config.kind,
        env=config.env,
        env_settings=config.env_settings,
        env_steps=learner.num_env_steps,
        seed=config.seed,
        num_actions=learner.num_actions,
        settings=config.settings,
        vocabulary=learner.vocabulary.words,
    )
    return saved, {name: tensor.clone() for name, tensor in learner.policy.state_dict().items()}


def _measure(config: BaselineConfig, folder: RunFolder, name: str, agent: Agent, reporter: Reporter) -> None:
    """Let an agent play the held-out episodes, and keep the outcome."""
    reporter.stage(f"evaluation: {name}", config.episodes, "episodes")
    measured = measure_agent(
        agent,
        config.env,
        config.env_settings,
        episodes=config.episodes,
        num_envs=EVALUATION_ENVS,
        reporter=reporter,
    )
    folder.write_evaluation(name, asdict(measured))


def _conclude(
    config: BaselineConfig, folder: RunFolder, learner: BaselineLearner, learn_seconds: float, seconds: float
) -> TrainResult:
    """Write result.json and the learning curve."""
    evaluations: Mapping[str, Any] = folder.read_evaluations()
    result = {
        "baseline": config.kind,
        "env": config.env,
        "env_settings": dict(config.env_settings),
        "seed": config.seed,
        "env_steps": learner.num_env_steps,
        "parameters": sum(parameter.numel() for parameter in learner.policy.parameters()),
        "learn_seconds": learn_seconds,
        "env_steps_per_second": learner.num_env_steps / learn_seconds,
        "seconds": seconds,
        **evaluations,
    }
    write_whole(folder.result, json.dumps(result, indent=2) + "\n")
    title = f"{config.kind}: {config.env}, seed {config.seed}"
    plot_learning_curve(folder.learning_curve, folder.read_metrics(), evaluations, title)
    rows = tuple(eval_row(name, evaluations[name]) for name in (RANDOM, "trained"))
    return TrainResult(rows, folder.path, seconds)


def _create(path: Path) -> RunFolder:
    """Make the folder, which must be new or empty.

    Raises:
        RunError: it is not, or it cannot be written.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunError(
            f"Expected a new or empty run folder, but {path} exists and is not empty. Choose another --run-dir."
        )
    folder = RunFolder(path)
    try:
        folder.tensorboard.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"Expected to be able to write the run folder {path}, but {error.strerror or error}. "
            "Choose another with --run-dir."
        ) from error
    return folder
