"""The first learner of a run: a model with heads that, where the recipe asks for it, has cloned an expert."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llmgym.config import RunConfig
from llmgym.rollout.batch import ReturnSettings, make_batch
from llmgym.rollout.demonstrations import Speaker, retell
from llmgym.run.broken import kept_if_broken
from llmgym.run.learning import RunLearner
from llmgym.run.report import Reporter
from llmgym.run.showing import shown_episodes
from llmgym.types import Batch, FloatArray, Trajectory

if TYPE_CHECKING:
    from llmgym.learner.group import MakesLearner

__all__ = ["clone_expert", "clone_maker", "expert_speaker", "shown_batch"]

EPISODES_A_PART = 500
"""Demonstrations that are learned from between two reports, and two falls of the learning rate."""


def clone_maker(config: RunConfig, model: str) -> MakesLearner:
    """Return what makes the learner of a run, ready to clone.

    Args:
        config: of the run.
        model: folder or hub id.
    """
    # Torch takes seconds to import; whoever only asks for the expert does without.
    from llmgym.algorithms import BehaviourCloning
    from llmgym.learner import Learner, heads_for

    clone, settings = config.clone, config.learner
    return partial(
        Learner,
        model,
        lora=settings.lora,
        trained=settings.trained,
        load_in_4bit=settings.load_in_4bit,
        heads=heads_for(config.make_algorithm(), trunk=settings.critic),
        precision=settings.precision,
        canary_tolerance=settings.canary_tolerance,
        algorithm=BehaviourCloning(1, clone.minibatch_turns, clone.value_coef, clone.text_coef),
        acting=config.acting,
        learning_rate=clone.learning_rate,
        head_learning_rate=settings.head_learning_rate,
        weight_decay=settings.weight_decay,
        optimizer=clone.optimizer,
        max_grad_norm=settings.max_grad_norm,
        on_non_finite=settings.on_non_finite,
        max_tokens_per_microbatch=settings.max_tokens_per_microbatch,
        seed=config.seed,
    )


def clone_expert(config: RunConfig, learner: RunLearner, reporter: Reporter, log: Path) -> None:
    """Let a learner clone demonstrations, if any are wanted: of the environment's expert, or those of a dataset.

    Args:
        config: of the run.
        learner: as `clone_maker` makes it.
        reporter: who watches.
        log: file for the metrics, one JSON object a part of the demonstrations; what is broken is kept beside it.
    """
    clone = config.clone
    if not clone.is_wanted:
        return
    trajectories = _demonstrations(config, learner, reporter)
    firsts = range(0, len(trajectories), EPISODES_A_PART)
    parts = [trajectories[first : first + EPISODES_A_PART] for first in firsts] * clone.epochs
    reporter.stage("cloning", clone.epochs * len(trajectories), "episodes")
    num_done = 0
    with log.open("w", encoding="utf-8") as file:
        for number, part in enumerate(parts, start=1):
            learner.scale_learning_rate(clone.learning_rate_factor(number, len(parts)))
            num_done += len(part)
            with kept_if_broken(log.parent / "broken", f"cloning-{number:06d}", learner, part, reporter):
                metrics = learner.update(shown_batch(part, learner, config.returns))
            file.write(json.dumps({"episodes": num_done, **metrics}) + "\n")
            file.flush()
            reporter.advance(num_done, metrics)


def shown_batch(trajectories: Sequence[Trajectory], learner: RunLearner, settings: ReturnSettings) -> Batch:
    """Return demonstrations as a batch whose returns are what was got, discounted, and no estimate of it.

    Only where an episode was cut off does what would have followed have to be estimated.
    """
    cut = [trajectory for trajectory in trajectories if not trajectory.turns[-1].terminated]
    estimates = iter(learner.values(cut) if cut else [])
    values: list[FloatArray] = []
    for trajectory in trajectories:
        value: FloatArray = np.zeros(len(trajectory.turns) + 1, np.float32)
        if not trajectory.turns[-1].terminated:
            value[-1] = next(estimates)[-1]
        values.append(value)
    return make_batch(trajectories, values, replace(settings, lam=1.0))


def expert_speaker(config: RunConfig, learner: RunLearner) -> Speaker:
    """Return who tells an expert's episodes as the learner would have."""
    return Speaker(learner.tokenizer, config.prompt, config.acting, learner.max_context_tokens)


def _demonstrations(config: RunConfig, learner: RunLearner, reporter: Reporter) -> list[Trajectory]:
    """Return demonstrations as the learner would have told them."""
    clone = config.clone
    is_all = clone.dataset is not None and clone.episodes == 0
    num_lessons = sum(lesson.episodes for lesson in clone.lessons)
    reporter.stage("demonstrations", None if is_all else num_lessons + clone.episodes, "episodes")
    trajectories: list[Trajectory] = []
    for trajectory in retell(shown_episodes(config), expert_speaker(config, learner)):
        trajectories.append(trajectory)
        reporter.advance(len(trajectories), {"return": sum(turn.reward for turn in trajectory.turns)})
    return trajectories
