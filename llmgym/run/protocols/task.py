"""What a protocol is made of: tasks, what their episodes came to, and the rows that were published."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from llmgym.run.seeds import HELD_OUT_SEED
from llmgym.text.prompt import PromptSettings
from llmgym.text.rewording import Rewording
from llmgym.types import Acting

__all__ = ["EpisodeOutcome", "Protocol", "ProtocolOptions", "PublishedRow", "Spread", "Task"]

Spread = Literal["wilson", "seeds", "standard_error"]
"""How a rate's uncertainty is told: the Wilson interval of its episodes; the normal interval of the means of its
repetitions (seeds); or plus and minus the standard error of its episodes."""


@dataclass(frozen=True)
class Task:
    """One thing that is measured: which episodes are played, how a policy is asked, and which episodes count.

    Attributes:
        name: short, of one word, such as "goto"; unique in its protocol.
        label: what is measured, for people.
        env: id of a text environment.
        episodes: how many count, in every repetition.
        env_settings: keyword arguments of the environment.
        first_seeds: one repetition each; its episodes have the seeds from there on.
        num_envs: environments stepped together.
        prompt: how the history is told to a model as it is. A run keeps the prompt that it was trained with.
        acting: how such a model takes actions. A run keeps its own way.
        temperature: of the actions of models and runs; None: what a run's evaluation says, 1 for a model as it is.
        rewording: the words that everybody reads instead of the environment's own.
        counts: "each" plays the episodes of the seeds first_seed, first_seed + 1, ... to their ends: short ones count
            no more than long ones. "first" counts the first episodes to end in environments that go on forever, of
            which environment k begins with seed first_seed + k: the shorter an episode, the more of its sort count.
    """

    name: str
    label: str
    env: str
    episodes: int
    env_settings: dict[str, Any] = field(default_factory=dict)
    first_seeds: tuple[int, ...] = (HELD_OUT_SEED,)
    num_envs: int = 32
    prompt: PromptSettings = field(default_factory=PromptSettings)
    acting: Acting = field(default_factory=Acting)
    temperature: float | None = None
    rewording: Rewording = field(default_factory=Rewording)
    counts: Literal["each", "first"] = "each"

    def to_json(self) -> dict[str, Any]:
        """Return what is measured, without how a policy is asked: that need not be as the task says."""
        return {name: value for name, value in asdict(self).items() if name not in ("prompt", "acting")}


@dataclass(frozen=True, slots=True)
class EpisodeOutcome:
    """What one episode came to.

    Attributes:
        task: name of its task.
        repetition: index among the task's first_seeds.
        seed: what it was reset with.
        success: whether its return was above 0.
        episode_return: undiscounted sum of its rewards.
        num_turns: its length.
        num_unparsed: turns whose answer named no action.
        kind: of its mission, where the level has kinds; "" elsewhere.
        given_up: why it was given up; "" where it was not.
        prompt_sha256: of the token ids of the first prompt (int32, little-endian), where a model played.
    """

    task: str
    repetition: int
    seed: int
    success: bool
    episode_return: float
    num_turns: int
    num_unparsed: int = 0
    kind: str = ""
    given_up: str = ""
    prompt_sha256: str = ""


@dataclass(frozen=True)
class PublishedRow:
    """A row of a published table.

    Attributes:
        policy: who was measured, such as "GFlan-T5 (780 M)".
        training: what it was trained on, or "zero-shot", "chance", ...: never left out beside a number.
        rates: name of a task to the success rate, in [0, 1]; "all" for the rate over all tasks.
        errors: name of a task to plus-minus of its rate, where that was published too.
        source: where the numbers are from, and how they were measured.
    """

    policy: str
    training: str
    rates: Mapping[str, float]
    source: str
    errors: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ProtocolOptions:
    """What may be changed of a protocol; None leaves it as the protocol says.

    Attributes:
        env: id of a text environment, for a protocol that is not for certain levels only.
        env_settings: its keyword arguments.
        episodes: that count, in every task (and repetition).
        num_seeds: repetitions of every task.
        first_episode: number of the first held-out episode, counted from 0.
        num_envs: environments stepped together.
        temperature: of the actions; 0 takes the best one.
        confidence: of the intervals, between 0 and 1.
        max_new_tokens: longest answer of a model that writes freely, in tokens.
        tasks: names of those to be measured; () for all.
    """

    env: str | None = None
    env_settings: dict[str, Any] = field(default_factory=dict)
    episodes: int | None = None
    num_seeds: int | None = None
    first_episode: int = 0
    num_envs: int | None = None
    temperature: float | None = None
    confidence: float | None = None
    max_new_tokens: int | None = None
    tasks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Protocol:
    """A way to measure policies, so that its numbers can be put beside others.

    Attributes:
        name: after --protocol.
        description: one line: whose it is and what it measures.
        make_tasks: from options to tasks; raises a ConfigError for options that do not fit.
        spread: how uncertainty is told.
        confidence: of the intervals, unless options say otherwise; nothing to "standard_error".
        has_total: whether a rate over all tasks means something: the mean of the tasks' rates.
        counting: how episodes count and how policies are asked, in one or two sentences, for reports.
        published: rows to be put beside ours.
    """

    name: str
    description: str
    make_tasks: Callable[[ProtocolOptions], tuple[Task, ...]]
    spread: Spread
    confidence: float
    has_total: bool
    counting: str
    published: tuple[PublishedRow, ...] = ()
