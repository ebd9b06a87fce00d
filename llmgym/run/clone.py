"""The first learner of a run: a model with heads that, where the recipe asks for it, has cloned an expert."""

from __future__ import annotations

from itertools import count
from typing import Any

import gymnasium as gym

from llmgym.algorithms import BehaviourCloning
from llmgym.config import RunConfig
from llmgym.errors import ConfigError
from llmgym.learner import Learner, ValueHead
from llmgym.rollout.batch import make_batch
from llmgym.rollout.demonstrations import Expert, Speaker, demonstrate
from llmgym.run.report import Reporter
from llmgym.run.seeds import training_seed
from llmgym.run.venv import make_env
from llmgym.types import Trajectory

__all__ = ["clone_expert", "find_expert"]

DEMONSTRATION_STREAM = 2**31
"""Names the seeds of demonstrations, apart from those of collected episodes."""


def clone_expert(config: RunConfig, model: str, reporter: Reporter) -> Learner:
    """Make the learner, and let it clone demonstrations of the environment's expert."""
    clone, settings = config.clone, config.learner
    learner = Learner(
        model,
        lora=settings.lora,
        load_in_4bit=settings.load_in_4bit,
        heads={"value": ValueHead},
        algorithm=BehaviourCloning(1, clone.minibatch_turns, clone.value_coef),
        acting=config.acting,
        learning_rate=clone.learning_rate,
        head_learning_rate=settings.head_learning_rate,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        num_threads=settings.num_threads,
        max_tokens_per_microbatch=settings.max_tokens_per_microbatch,
        seed=config.seed,
    )
    if not clone.episodes:
        return learner
    trajectories = _demonstrations(config, learner, reporter)
    reporter.stage("cloning", clone.epochs, "epochs")
    for epoch in range(clone.epochs):
        batch = make_batch(trajectories, learner.values(trajectories), config.returns)
        reporter.advance(epoch + 1, learner.update(batch))
    return learner


def find_expert(env_id: str) -> Expert:
    """Return the expert of an environment.

    Raises:
        ConfigError: nobody knows how to solve it.
    """
    if not env_id.startswith("llmgym/BabyAI-"):
        raise ConfigError(
            f"Expected an environment with an expert to clone, found {env_id!r}, which has none. Set clone.episodes=0."
        )
    from llmgym.envs.babyai.bot import Bot

    def expert(env: gym.Env[Any, Any]) -> Any:
        bot = Bot(env)
        return lambda: bot.act()

    return expert


def _demonstrations(config: RunConfig, learner: Learner, reporter: Reporter) -> list[Trajectory]:
    expert = find_expert(config.env)
    env = make_env(config.env, config.env_settings)
    seeds = (training_seed(config.seed, DEMONSTRATION_STREAM, number) for number in count())
    speaker = Speaker(learner.tokenizer, config.prompt, config.acting, learner.max_context_tokens)
    trajectories: list[Trajectory] = []
    reporter.stage("demonstrations", config.clone.episodes, "episodes")
    for trajectory in demonstrate(env, expert, seeds, config.clone.episodes, speaker):
        trajectories.append(trajectory)
        reporter.advance(len(trajectories), {"return": trajectory.turns[-1].reward})
    env.close()
    return trajectories
