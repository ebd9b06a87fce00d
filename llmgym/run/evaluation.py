"""Evaluation: a policy's success rate on held-out episodes, whatever the policy is."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace

from llmgym.config import EvalConfig, RunConfig
from llmgym.errors import EnvError
from llmgym.rollout.success import SuccessRate
from llmgym.run.agents import find_agent
from llmgym.run.measure import measure_agent, measure_engine
from llmgym.run.policy import OpenPolicy, check_policy, open_policy
from llmgym.run.report import Reporter, SilentReporter
from llmgym.run.results import EvalResult, eval_row
from llmgym.run.seeds import HELD_OUT_SEED
from llmgym.run.venv import check_env_id, make_env
from llmgym.text.missions import FindMission, OtherMissions
from llmgym.text.rewording import NO_REWORDING, Telling

__all__ = ["evaluate"]

_MAX_MISSIONS = 100
"""Missions that may be the same in a row, before they are taken to be all the same."""


def evaluate(config: EvalConfig, reporter: Reporter | None = None) -> EvalResult:
    """Measure a policy on held-out episodes.

    Raises:
        LLMGymError: there is no such policy or environment.
    """
    reporter = reporter or SilentReporter()
    check_env_id(config.env)
    check_policy(config.policy)
    defaults = RunConfig(env=config.env, env_settings=config.env_settings, prompt=config.prompt, acting=config.acting)
    try:
        reporter.stage("policy", None, "")
        with open_policy(config.policy, defaults, beta=config.beta) as opened:
            reporter.stage(f"evaluation: {config.policy}", config.episodes, "episodes")
            started = time.monotonic()
            temperature = config.temperature
            if temperature is None:
                temperature = opened.served.config.evaluation.temperature if opened.served else 1.0
            measured = _measure(opened, config, temperature, reporter)
            seconds = time.monotonic() - started
    finally:
        reporter.close()
    row = eval_row(config.policy, measured)
    first_seed = HELD_OUT_SEED + config.first_episode
    return EvalResult(
        row, config.env, config.env_settings, first_seed, temperature, seconds, config.other_missions, config.beta
    )


def _measure(opened: OpenPolicy, config: EvalConfig, temperature: float, reporter: Reporter) -> SuccessRate:
    first_seed = HELD_OUT_SEED + config.first_episode
    telling: Telling = OtherMissions(_finder(config)) if config.other_missions else NO_REWORDING
    if opened.served is None:
        agent = find_agent(config.policy, config.env, config.env_settings)
        assert agent is not None, "it was found when the policy was opened"
        return measure_agent(
            agent,
            config.env,
            config.env_settings,
            episodes=config.episodes,
            num_envs=config.num_envs,
            first_seed=first_seed,
            telling=telling,
            reporter=reporter,
        )
    own = opened.served.config
    return measure_engine(
        opened.served.engine,
        config.env,
        config.env_settings,
        episodes=config.episodes,
        num_envs=config.num_envs,
        prompt=own.prompt,
        acting=replace(own.acting, temperature=temperature),
        first_seed=first_seed,
        barrier=own.collect.barrier,
        telling=telling,
        reporter=reporter,
    )


def _finder(config: EvalConfig) -> FindMission:
    """Return what finds, for every episode, the next other mission that the seeds after its own draw."""

    def find(seed: int | None, own: str) -> str:
        with closing(make_env(config.env, config.env_settings)) as env:
            for number in range(1, _MAX_MISSIONS + 1):
                observation, _ = env.reset(seed=None if seed is None else seed + number)
                if observation["mission"] != own:
                    return str(observation["mission"])
        raise EnvError(
            f"Expected an environment with several missions, but {config.env} gave {own!r} {_MAX_MISSIONS} times. "
            "Measure it without other missions."
        )

    return find
