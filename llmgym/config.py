"""The configuration of a run: every setting, composed once from the classes that stand beside what they set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

from llmgym.algorithms import Algorithm, algorithm_class
from llmgym.algorithms.algorithm import compares_groups
from llmgym.engine import Backend, EngineSettings
from llmgym.errors import ConfigError, LearnerError, PromptError
from llmgym.learner.freezing import TrainedSettings
from llmgym.learner.settings import LearnerSettings
from llmgym.learner.tiny import TinySettings
from llmgym.rollout.batch import ReturnSettings
from llmgym.rollout.clone_settings import CloneSettings, Lesson, check_clone
from llmgym.rollout.collect_settings import CollectSettings, check_staleness
from llmgym.settings import apply_overrides, describe, from_dict, read_toml, to_dict
from llmgym.text.prompt import PromptSettings, check_prompt
from llmgym.types import Acting

__all__ = [
    "CloneSettings",
    "CollectSettings",
    "EvalConfig",
    "EvaluationSettings",
    "Lesson",
    "RunConfig",
    "load_config",
]


@dataclass(frozen=True)
class EvaluationSettings:
    """How a policy is measured, on episodes that are never trained on.

    Attributes:
        episodes: how many; the same seeds for every policy and every run.
        num_envs: environments stepped together.
        temperature: of the actions; 0 takes the best one, 1 samples from the policy itself.
    """

    episodes: int = 256
    num_envs: int = 32
    temperature: float = 1.0


DEFAULT_ALGORITHM = "ppo"
_LEAST = {
    "updates": 0,
    "checkpoint_every": 1,
    "collect.num_envs": 1,
    "collect.steps_per_update": 1,
    "collect.episodes_per_update": 1,
    "collect.group_size": 1,
    "clone.episodes": 0,
    "clone.rounds": 0,
    "clone.round_episodes": 1,
    "clone.own_turns": 1,
    "acting.max_new_tokens": 1,
    "learner.num_ranks": 1,
    "evaluation.episodes": 1,
    "evaluation.num_envs": 1,
}
"""The least value of each setting of a run that counts something."""


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides what `llmgym train` does.

    Attributes:
        env: id of a text environment.
        env_settings: keyword arguments of the environment, such as kind or num_dists of a BabyAI level.
        model: "tiny" (built on the spot), "smollm2", a folder, or a hub id.
        seed: fixes levels, sampling, initial weights and minibatches.
        updates: of the learner by reinforcement.
        checkpoint_every: updates between two checkpoints; the last update is always kept.
        backend: which engine answers.
        tiny: size of the tiny model.
        prompt: how the history of an episode is told.
        acting: how an action is drawn.
        collect: how much experience goes into an update.
        returns: how rewards become advantages.
        clone: learning from demonstrations first.
        learner: what is trained, and how fast.
        algorithm: the loss: its name ("ppo" if there is none, or "module:Class" for one of your own), and its settings.
        engine: how the engine runs.
        evaluation: how policies are measured.
    """

    env: str
    env_settings: dict[str, Any] = field(default_factory=dict)
    model: str = "tiny"
    seed: int = 0
    updates: int = 10
    checkpoint_every: int = 10
    backend: Backend = "vllm"
    tiny: TinySettings = field(default_factory=TinySettings)
    prompt: PromptSettings = field(default_factory=PromptSettings)
    acting: Acting = field(default_factory=Acting)
    collect: CollectSettings = field(default_factory=CollectSettings)
    returns: ReturnSettings = field(default_factory=ReturnSettings)
    clone: CloneSettings = field(default_factory=CloneSettings)
    learner: LearnerSettings = field(default_factory=LearnerSettings)
    algorithm: dict[str, Any] = field(default_factory=dict)
    engine: EngineSettings = field(default_factory=EngineSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)

    def __post_init__(self) -> None:
        # Every setting of the algorithm is written out, so that a run's file says all that it was made with.
        settings = to_dict(self.make_algorithm())
        object.__setattr__(self, "algorithm", {"name": _algorithm_name({"algorithm": self.algorithm}), **settings})
        for name, least in _LEAST.items():
            _at_least(name, attrgetter(name)(self), least)
        for number, lesson in enumerate(self.clone.lessons):
            _at_least(f"clone.lessons[{number}].episodes", lesson.episodes, 1)
        check_clone(self.clone, self.acting.how)
        for table in ("clone", "learner"):
            _check_final_share(table, getattr(self, table).final_learning_rate)
        if self.acting.temperature <= 0:
            raise ConfigError(
                f"Expected acting.temperature above 0, found {self.acting.temperature}: a policy that learns must "
                "sample. Set evaluation.temperature=0 to measure its best actions."
            )
        if self.acting.normalize == "none":
            raise ConfigError(
                "Expected acting.normalize to be sum or mean, found none, which gives no distribution over actions. "
                "Set acting.normalize=sum."
            )
        if self.tiny.hidden_size % (32 * self.tiny.num_heads):
            # The attention of vLLM on a CPU works on heads of such widths.
            raise ConfigError(
                f"Expected tiny.hidden_size to be a multiple of 32 * tiny.num_heads ({32 * self.tiny.num_heads}), "
                f"found {self.tiny.hidden_size}. Change one of them."
            )
        lora = self.learner.lora
        if lora is not None and not lora.dora and self.engine.max_lora_rank < lora.rank:
            raise ConfigError(
                f"Expected engine.max_lora_rank of at least learner.lora.rank ({lora.rank}), found "
                f"{self.engine.max_lora_rank}. Set engine.max_lora_rank={lora.rank}."
            )
        _check_4bit(self.learner, self.engine, self.backend)
        _check_groups(self)
        check_staleness(self.collect, shares_gpu=self.engine.shares_gpu)
        try:
            check_prompt(self.prompt, self.acting.how)
        except PromptError as problem:
            raise ConfigError(str(problem)) from None

    def make_algorithm(self) -> Algorithm:
        """Return the algorithm with its settings.

        Raises:
            ConfigError: there is none of that name, or it has no such setting.
        """
        cls = _algorithm_class(self.algorithm)
        return from_dict(cls, {key: value for key, value in self.algorithm.items() if key != "name"}, "algorithm")

    def algorithm_helps(self) -> dict[str, str]:
        """Return the help of every setting of the algorithm, by its dotted key."""
        return {setting.key: setting.help for setting in describe(_algorithm_class(self.algorithm), "algorithm")}


def _algorithm_class(table: dict[str, Any]) -> type[Algorithm]:
    """Return the class that a table names, or raise a ConfigError."""
    try:
        return algorithm_class(str(table.get("name", DEFAULT_ALGORITHM)))
    except LearnerError as problem:
        raise ConfigError(f"{problem} It is algorithm.name in the recipe.") from problem


@dataclass(frozen=True)
class EvalConfig:
    """What `llmgym eval` measures.

    Attributes:
        policy: a run folder, "random", "smollm2", a model folder, or a hub id.
        env: id of a text environment.
        env_settings: its keyword arguments.
        episodes: how many held-out episodes.
        first_episode: the first of them, counted from 0.
        num_envs: environments stepped together.
        temperature: of the actions; 0 takes the best one; None does as the policy's run does.
        beta: how much the heads of a run that learned by ILQL guide it, at least 0; None as its algorithm says.
        other_missions: whether every episode is told another one's mission: who reads it then succeeds less often.
        prompt: how the history is told, where the policy is no run.
        acting: how an action is drawn, where the policy is no run.
    """

    policy: str
    env: str
    env_settings: dict[str, Any] = field(default_factory=dict)
    episodes: int = 256
    first_episode: int = 0
    num_envs: int = 32
    temperature: float | None = None
    beta: float | None = None
    other_missions: bool = False
    prompt: PromptSettings = field(default_factory=PromptSettings)
    acting: Acting = field(default_factory=Acting)

    def __post_init__(self) -> None:
        for name, least in (("episodes", 1), ("num_envs", 1), ("first_episode", 0)):
            _at_least(name, getattr(self, name), least)


def _check_groups(config: RunConfig) -> None:
    """Refuse groups that cannot be compared."""
    if not compares_groups(config.make_algorithm()):
        return
    size, num_envs = config.collect.group_size, config.collect.num_envs
    if size < 2 or num_envs % size:
        raise ConfigError(
            f"Expected collect.group_size of at least 2 that divides collect.num_envs ({num_envs}) for algorithm "
            f"{config.algorithm['name']!r}, which compares episodes from the same start, found {size}. Change one of "
            "them."
        )


def load_config(recipe: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a recipe, and change what the overrides say.

    What the recipe sets for its algorithm is left out where an override names another one.

    Args:
        overrides: "key=value" with dotted keys and TOML values.

    Raises:
        ConfigError: the file is no TOML, or a key or value fits nothing.
    """
    written = read_toml(recipe)
    data = apply_overrides(written, overrides)
    if _algorithm_name(data) != _algorithm_name(written):
        data = apply_overrides({key: value for key, value in written.items() if key != "algorithm"}, overrides)
    return from_dict(RunConfig, data)


def _algorithm_name(data: dict[str, Any]) -> Any:
    """Return which algorithm the table of a recipe names."""
    table = data.get("algorithm", {})
    return table.get("name", DEFAULT_ALGORITHM) if isinstance(table, dict) else None


def _check_4bit(learner: LearnerSettings, engine: EngineSettings, backend: Backend) -> None:
    """Refuse weights of 4 bits that cannot be learned on, or that would make two policies of one."""
    if learner.load_in_4bit and learner.lora is None:
        raise ConfigError(
            "Expected learner.lora where learner.load_in_4bit=true: weights of 4 bits have no gradient of their own. "
            "Set learner.lora.rank=16, or leave load_in_4bit out."
        )
    if learner.lora is not None and learner.trained != TrainedSettings():
        raise ConfigError(
            "Expected learner.trained only without learner.lora, which freezes all of the model's own weights, found "
            "both. Leave one of them out, or choose learner.lora.targets."
        )
    if engine.load_in_4bit and not (learner.load_in_4bit and backend == "transformers"):
        raise ConfigError(
            "Expected engine.load_in_4bit only with learner.load_in_4bit=true and backend='transformers', found "
            f"learner.load_in_4bit={str(learner.load_in_4bit).lower()} and backend={backend!r}. Leave it out: the "
            "engine then serves the plain weights that the learner's stand for."
        )


def _check_final_share(table: str, share: float) -> None:
    if not 0 <= share <= 1:
        raise ConfigError(
            f"Expected {table}.final_learning_rate from 0 to 1, found {share}: it is a share of {table}.learning_rate. "
            "Change it."
        )


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"Expected {name} of at least {least}, found {value}. Set {name}={least} or more.")
