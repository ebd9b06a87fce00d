"""What a clone learns from, and how. Knows no expert and no model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from llmgym.errors import ConfigError
from llmgym.learner.settings import OptimizerName

__all__ = ["CloneSettings", "Lesson", "check_clone"]


@dataclass(frozen=True)
class Lesson:
    """Demonstrations of one sort.

    Attributes:
        episodes: how many.
        env_settings: keyword arguments of the environment, which count before the run's own.
        slips: as `CloneSettings.slips`, of this lesson alone; left out, it is that.
    """

    episodes: int
    env_settings: dict[str, Any] = field(default_factory=dict)
    slips: float | None = None


@dataclass(frozen=True)
class CloneSettings:
    """Behaviour cloning before reinforcement learning: of the environment's own expert, or of a dataset.

    Attributes:
        episodes: demonstrations to learn from. 0 leaves the stage out, or, where a dataset is named, takes all of its.
        lessons: demonstrations that are shown before these, such as easier ones: of each lesson, how many `episodes`,
            in `env_settings` what differs, and in `slips` whether the hand slips otherwise. The last third of a lesson
            is shown among the first of the next.
        slips: share of the steps, from 0 to below 1, in which the expert's hand slips and any action is taken: so it
            shows how to recover, too. What it would have done is learned.
        dataset: a Minari dataset whose episodes are the demonstrations, as `llmgym demos` writes it: its name, or the
            path of its folder. Without, the expert plays.
        rounds: how often, behind that, the clone plays, and learns at every state it gets into what the expert would
            have done there (DAgger, https://arxiv.org/abs/1011.0686). "score" and "constrained" only.
        round_episodes: episodes of a round, gone through once.
        own_turns: most turns that the clone has in such an episode; from 1 to these many are drawn, and the expert
            plays on.
        epochs: how often demonstrations are gone through.
        minibatch_turns: about how many turns a gradient step is taken on.
        learning_rate: of this stage.
        round_learning_rate: of the rounds, where they are to have their own, which falls to the same share; left out,
            that of the demonstrations falls on through the rounds.
        optimizer: of this stage: "adamw", or "muon", with which a model that knows nothing learns from fewer
            demonstrations.
        final_learning_rate: share of a learning rate that is left at its end, from 0 to 1; it falls evenly.
        value_coef: weight of fitting the value head to the expert's returns.
        text_coef: weight of foreseeing what is read, missions and observations, beside the actions; 0 leaves it out.
            A model that knows no language yet learns sooner with it.
    """

    episodes: int = 0
    lessons: tuple[Lesson, ...] = ()
    slips: float = 0.0
    dataset: str | None = None
    rounds: int = 0
    round_episodes: int = 500
    own_turns: int = 32
    epochs: int = 4
    minibatch_turns: int = 64
    learning_rate: float = 1e-3
    round_learning_rate: float | None = None
    optimizer: OptimizerName = "adamw"
    final_learning_rate: float = 1.0
    value_coef: float = 0.5
    text_coef: float = 0.0

    def learning_rate_factor(self, part: int, num_parts: int) -> float:
        """Return what multiplies the learning rate in a part of the stage.

        Args:
            part: counted from 1; rounds come behind the parts of the demonstrations.
            num_parts: of the demonstrations.

        >>> settings = CloneSettings(rounds=3, learning_rate=0.5, final_learning_rate=0.5)
        >>> [settings.learning_rate_factor(part, 2) for part in (1, 2, 3, 4, 5)]
        [1.0, 0.875, 0.75, 0.625, 0.5]
        >>> settings = CloneSettings(rounds=3, learning_rate=0.5, round_learning_rate=0.25, final_learning_rate=0.5)
        >>> [settings.learning_rate_factor(part, 2) for part in (1, 2, 3, 4, 5)]
        [1.0, 0.5, 0.5, 0.375, 0.25]
        """
        if self.round_learning_rate is None:
            return self._share_left(part, num_parts + self.rounds)
        if part <= num_parts:
            return self._share_left(part, num_parts)
        return self.round_learning_rate / self.learning_rate * self._share_left(part - num_parts, self.rounds)

    def _share_left(self, step: int, num_steps: int) -> float:
        """Return which share of a learning rate is left in a step, counted from 1, on its way to the final one."""
        return 1 - (1 - self.final_learning_rate) * (step - 1) / max(num_steps - 1, 1)

    @property
    def is_wanted(self) -> bool:
        """Whether there is anything to clone."""
        return self.episodes > 0 or bool(self.lessons) or self.dataset is not None


def check_clone(clone: CloneSettings, how: str) -> None:
    """Refuse shares and rates that are none, and corrections of what cannot be corrected.

    Args:
        how: `acting.how`.

    Raises:
        ConfigError: says which setting to change.
    """
    if clone.rounds and not clone.is_wanted:
        raise ConfigError(
            f"Expected demonstrations before clone.rounds={clone.rounds}, found none. Set clone.episodes."
        )
    if clone.rounds and how not in ("score", "constrained"):
        raise ConfigError(
            f"Expected acting.how to be score or constrained with clone.rounds={clone.rounds}, found {how}: an expert "
            "corrects actions, and no answers. Set clone.rounds=0."
        )
    named_slips = {"clone.slips": clone.slips}
    for number, lesson in enumerate(clone.lessons):
        if lesson.slips is not None:
            named_slips[f"clone.lessons[{number}].slips"] = lesson.slips
    for name, slips in named_slips.items():
        if not 0 <= slips < 1:
            raise ConfigError(
                f"Expected {name} from 0 to below 1, found {slips}. It is a share of the steps: set 0.2 or so."
            )
    if clone.slips and clone.dataset is not None:
        raise ConfigError(
            "Expected clone.slips=0 where clone.dataset is set: how the dataset was played is decided. Make one with "
            "`llmgym demos --slips`."
        )
    rates = clone.learning_rate, clone.round_learning_rate
    if rates[1] is not None and min(rates[0], rates[1]) <= 0:
        raise ConfigError(
            "Expected clone.learning_rate and clone.round_learning_rate above 0 where the rounds have a rate of their "
            f"own, found {rates[0]} and {rates[1]}. Change them, or leave clone.round_learning_rate out."
        )
