"""Evaluation: a policy's success rate on held-out episodes, whatever the policy is."""

from __future__ import annotations

import time
from dataclasses import replace

from llmgym.config import EvalConfig, RunConfig
from llmgym.run.measure import measure_engine
from llmgym.run.policy import serve_policy
from llmgym.run.report import Reporter, SilentReporter
from llmgym.run.results import EvalResult, eval_row
from llmgym.run.seeds import HELD_OUT_SEED
from llmgym.run.venv import check_env_id

__all__ = ["evaluate"]


def evaluate(config: EvalConfig, reporter: Reporter | None = None) -> EvalResult:
    """Measure a policy on held-out episodes.

    Raises:
        LLMGymError: there is no such policy or environment.
    """
    reporter = reporter or SilentReporter()
    check_env_id(config.env)
    first_seed = HELD_OUT_SEED + config.first_episode
    try:
        reporter.stage("engine", None, "")
        env, env_settings = config.env, config.env_settings
        defaults = RunConfig(env=env, env_settings=env_settings, prompt=config.prompt, acting=config.acting)
        with serve_policy(config.policy, defaults) as served:
            reporter.stage(f"evaluation: {config.policy}", config.episodes, "episodes")
            started = time.monotonic()
            temperature = config.temperature
            if temperature is None:
                temperature = served.config.evaluation.temperature
            measured = measure_engine(
                served.engine,
                env,
                env_settings,
                episodes=config.episodes,
                num_envs=config.num_envs,
                prompt=served.config.prompt,
                acting=replace(served.config.acting, temperature=temperature),
                first_seed=first_seed,
                barrier=served.config.collect.barrier,
                reporter=reporter,
            )
            seconds = time.monotonic() - started
    finally:
        reporter.close()
    return EvalResult(eval_row(config.policy, measured), env, env_settings, first_seed, temperature, seconds)
