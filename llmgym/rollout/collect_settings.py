"""What can be set about collecting."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CollectSettings"]


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
