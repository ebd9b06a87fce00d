"""Correcting a clone: it plays, and learns at every state it gets into what the expert would have done there.

Ross, Gordon and Bagnell 2011 (DAgger), https://arxiv.org/abs/1011.0686, with experts that play the episodes to their
ends (see `llmgym.rollout.coaching`). Every round learns from its own episodes only.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

from llmgym.config import RunConfig
from llmgym.rollout.async_collector import AsyncCollector
from llmgym.rollout.coaching import Coached
from llmgym.rollout.demonstrations import retell
from llmgym.run.broken import kept_if_broken
from llmgym.run.clone import expert_speaker, shown_batch
from llmgym.run.learning import RunLearner
from llmgym.run.report import Reporter
from llmgym.run.seeds import training_seed
from llmgym.run.showing import find_expert
from llmgym.run.venv import make_envs
from llmgym.types import Engine, Trajectory

__all__ = ["correct_clone"]

CORRECTION_STREAM = 2**31 + 2
"""Names the seeds of corrected episodes, apart from those of demonstrations and of collected episodes."""


def correct_clone(
    config: RunConfig, learner: RunLearner, engine: Engine, reporter: Reporter, *, log: Path, save: Callable[[], None]
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
        played, trajectories = _play(config, learner, engine, number)
        engine.sleep()
        learner.scale_learning_rate(clone.learning_rate_factor(num_parts + number, num_parts))
        with kept_if_broken(log.parent / "broken", f"correction-{number:06d}", learner, trajectories, reporter):
            metrics = {**played, **learner.update(shown_batch(trajectories, learner, config.returns))}
        engine.wake_up()
        learner.publish(engine)
        save()
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"round": number, **metrics}) + "\n")
        reporter.advance(number, metrics)


def _play(
    config: RunConfig, learner: RunLearner, engine: Engine, number: int
) -> tuple[dict[str, float], list[Trajectory]]:
    """Play a round; return how it went, and the episodes with what the expert would have done."""
    expert, clone = find_expert(config.env, config.env_settings), config.clone
    assert expert is not None, "looked for when the run was opened"
    num_envs = min(config.collect.num_envs, clone.round_episodes)

    def episode_seed(env_index: int, episode: int) -> int | None:
        position = episode * num_envs + env_index
        if position >= clone.round_episodes:
            return None
        return training_seed(config.seed, CORRECTION_STREAM, number, position)

    num_solved, num_own = 0, 0
    with ExitStack() as stack:
        envs = [
            stack.enter_context(closing(Coached(env, expert, clone.own_turns)))
            for env in make_envs(config.env, num_envs, config.env_settings)
        ]
        seed = training_seed(config.seed, CORRECTION_STREAM, number)
        collector = AsyncCollector(
            envs, engine, prompt=config.prompt, acting=config.acting, seed=seed, episode_seed=episode_seed
        )
        for trajectory in collector.episodes():
            num_solved += sum(turn.reward for turn in trajectory.turns) > 0
            num_own += len(trajectory.turns)
        episodes = [episode for env in envs for episode in env.take()]
    trajectories = list(retell(episodes, expert_speaker(config, learner)))
    num_turns = sum(len(trajectory.turns) for trajectory in trajectories)
    return {"solved_alone": num_solved / clone.round_episodes, "own_turns": num_own, "turns": num_turns}, trajectories
