"""What can be set about collecting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llmgym.errors import ConfigError

__all__ = ["CollectSettings", "check_staleness"]


@dataclass(frozen=True)
class CollectSettings:
    """How much experience goes into an update.

    Attributes:
        num_envs: environments stepped together.
        steps_per_update: steps of every environment between two updates; unfinished episodes go on in the next.
        episodes_per_update: whole episodes of every environment between two updates, for algorithms without a critic;
            those with one take steps_per_update instead.
        group_size: environments that begin their episodes alike, for algorithms that compare such; num_envs is a
            multiple of it.
        barrier: whether environments wait for each other at every step. Without, each steps as soon as its action is
            there: faster where answers differ in length, with the same outcome.
        staleness: most updates by which the policy that collects may be behind the one that learns. 0 collects and
            learns in turns: strictly on the policy, and repeatable. From 1 on the two overlap, with weights swapped in
            the midst of episodes: larger waits less and learns from older experience; what is collected then depends on
            the machine's speed.
        correction: what is done about turns that an older policy took: "truncated" weights each by how much oftener the
            policy that learns would take it, up to correction_limit; "masked" leaves those out whose weight is above
            that or below its inverse; "none" measures ratios against the policy that took them, and weights nothing.
        correction_limit: largest weight that counts as it is, at least 1; larger is less biased, and noisier.
        datasets: Minari datasets, as `llmgym demos` writes them, by their names or the paths of their folders. Where
            there are any, nothing is played: an update takes as many of their episodes as it would collect, all in
            turn, in an order that is drawn anew each time. For algorithms that learn from what others did, such as
            ilql.
    """

    num_envs: int = 32
    steps_per_update: int = 32
    episodes_per_update: int = 1
    group_size: int = 8
    barrier: bool = True
    datasets: tuple[str, ...] = ()
    staleness: int = 0
    correction: Literal["truncated", "masked", "none"] = "truncated"
    correction_limit: float = 2.0


def check_staleness(collect: CollectSettings, *, shares_gpu: bool) -> None:
    """Refuse to overlap what cannot, and limits that are none.

    Args:
        shares_gpu: whether the engine sleeps while the learner works.

    Raises:
        ConfigError: says which setting to change.
    """
    if collect.staleness < 0:
        raise ConfigError(
            f"Expected collect.staleness of at least 0, found {collect.staleness}. Set collect.staleness=0 or more."
        )
    if collect.staleness and shares_gpu:
        raise ConfigError(
            f"Expected engine.shares_gpu=false with collect.staleness={collect.staleness}, found true: an engine that "
            "sleeps while the learner works cannot collect meanwhile. Change one of them."
        )
    if collect.staleness and collect.datasets:
        raise ConfigError(
            f"Expected collect.staleness=0 with collect.datasets, found {collect.staleness}: nothing is played that "
            "learning could overlap with. Leave one of them out."
        )
    if not collect.correction_limit >= 1:
        raise ConfigError(
            f"Expected collect.correction_limit of at least 1, found {collect.correction_limit}: 1 is the weight of a "
            "turn of the policy that learns. Set 2.0 or so."
        )
