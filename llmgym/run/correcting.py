"""Correcting a clone: it plays, and learns at every state it gets into what the expert would have done there.

Ross, Gordon and Bagnell 2011 (DAgger), https://arxiv.org/abs/1011.0686. A clone that has only seen an expert's states
does not know how to get out of those that its own mistakes lead to. Every round learns from its own episodes only.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

from llmgym.config import RunConfig
from llmgym.rollout.advice import Advised, corrected
from llmgym.rollout.async_collector import AsyncCollector
from llmgym.run.clone import find_expert, shown_batch
from llmgym.run.report import Reporter
from llmgym.run.seeds import training_seed
from llmgym.run.venv import make_envs
from llmgym.types import Engine, Trajectory

if TYPE_CHECKING:
    from llmgym.learner import Learner

__all__ = ["correct_clone"]

CORRECTION_STREAM = 2**31 + 1
"""Names the seeds of corrected episodes, apart from those of demonstrations and of collected episodes."""


def correct_clone(
    config: RunConfig, learner: Learner, engine: Engine, reporter: Reporter, *, log: Path, save: Callable[[], None]
) -> None:
    """Let the clone play and be corrected, round after round; rounds that the log tells of are not repeated.

    Args:
        config: of the run.
        learner: has cloned, and is served by the engine.
        engine: who plays.
        reporter: who watches.
        log: file of cloning's metrics, to which every round adds a JSON object.
        save: keeps the learner; called after every round.
    """
    clone = config.clone
    is_round = ["round" in json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    num_parts, num_done = is_round.count(False), is_round.count(True)
    reporter.stage("correction", clone.rounds, "rounds")
    for number in range(num_done + 1, clone.rounds + 1):
        played, trajectories = _play(config, engine, number)
        engine.sleep()
        learner.scale_learning_rate(clone.learning_rate_factor(num_parts + number, num_parts + clone.rounds))
        metrics = {**played, **learner.update(shown_batch(trajectories, learner, config.returns))}
        engine.wake_up()
        learner.publish(engine)
        save()
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"round": number, **metrics}) + "\n")
        reporter.advance(number, metrics)


def _play(config: RunConfig, engine: Engine, number: int) -> tuple[dict[str, float], list[Trajectory]]:
    """Play a round; return how it went, and the episodes with what the expert would have done."""
    expert = find_expert(config.env, config.env_settings)
    assert expert is not None, "looked for when the run was opened"
    num_envs = min(config.collect.num_envs, config.clone.round_episodes)

    def episode_seed(env_index: int, episode: int) -> int | None:
        position = episode * num_envs + env_index
        if position >= config.clone.round_episodes:
            return None
        return training_seed(config.seed, CORRECTION_STREAM, number, position)

    trajectories, num_solved, num_turns = [], 0, 0
    with ExitStack() as stack:
        envs = [
            stack.enter_context(closing(Advised(env, expert)))
            for env in make_envs(config.env, num_envs, config.env_settings)
        ]
        seed = training_seed(config.seed, CORRECTION_STREAM, number)
        collector = AsyncCollector(
            envs, engine, prompt=config.prompt, acting=config.acting, seed=seed, episode_seed=episode_seed
        )
        for trajectory in collector.episodes():
            num_solved += sum(turn.reward for turn in trajectory.turns) > 0
            told = corrected(trajectory, envs[trajectory.env_index].take())
            if told is not None:
                trajectories.append(told)
                num_turns += len(told.turns)
    return {"success": num_solved / config.clone.round_episodes, "env_steps": num_turns}, trajectories
