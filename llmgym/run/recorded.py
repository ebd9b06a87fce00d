"""Recorded play: whole episodes of a policy as texts, with how its actions were decided on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np

from llmgym.errors import EnvError
from llmgym.rollout.async_collector import AsyncCollector
from llmgym.rollout.recording import Column, Episode, Recorder
from llmgym.run.agents import Agent, GivesUp, Situation
from llmgym.run.policy import ServedPolicy
from llmgym.run.venv import make_envs
from llmgym.text.histories import actions_of
from llmgym.types import Acting, Tokenizer, Trajectory

__all__ = ["agent_episodes", "model_episodes"]

NUM_ENVS = 32


def model_episodes(
    served: ServedPolicy, seeds: Iterable[int], *, seed: int, temperature: float | None
) -> Iterator[tuple[int, Episode]]:
    """Yield the episodes of a model when they end, each with its number.

    Their infos tell how every action was decided on, at the observation that it led to: "logprob" is the behaviour
    log-probability of all that was sampled, "policy_version" that of the weights; the first observation has NaN and
    -1. Where something is written freely, the answer of "text" or the thought of "reason", "said" is that.

    Args:
        served: the model, with the environment to play in.
        seeds: of the episodes.
        seed: of the draws.
        temperature: of the actions; as the policy's run evaluates if None.
    """
    config, engine = served.config, served.engine
    dealt = list(seeds)
    num_envs = min(NUM_ENVS, len(dealt))
    acting = replace(config.acting, temperature=config.evaluation.temperature if temperature is None else temperature)

    def episode_seed(env_index: int, number: int) -> int | None:
        position = number * num_envs + env_index
        return dealt[position] if position < len(dealt) else None

    with ExitStack() as stack:
        envs = make_envs(config.env, num_envs, config.env_settings)
        recorders = [Recorder(stack.enter_context(closing(env))) for env in envs]
        collector = AsyncCollector(
            recorders, engine, prompt=config.prompt, acting=acting, seed=seed, episode_seed=episode_seed
        )
        num_ended = [0] * num_envs
        for trajectory in collector.episodes():
            env_index = trajectory.env_index
            episode = recorders[env_index].take()
            infos = {**episode.infos, **_decisions(trajectory, engine.tokenizer, acting)}
            yield num_ended[env_index] * num_envs + env_index, replace(episode, infos=infos)
            num_ended[env_index] += 1


def agent_episodes(env: gym.Env[Any, Any], agent: Agent, seeds: Iterable[int]) -> Iterator[Episode]:
    """Yield the episodes of an agent that is no language model.

    Raises:
        EnvError: it gives up.
    """
    recorder = Recorder(env)
    takes_text = not hasattr(env.action_space, "n")
    for seed in seeds:
        observation, info = recorder.reset(seed=seed)
        situation = _situation(recorder, observation, info)
        agent.begin(situation, seed)
        is_over = False
        while not is_over:
            (answer,) = agent.act([situation])
            if isinstance(answer, GivesUp):
                raise EnvError(f"Expected {agent.name} to play every episode, but it gives one up: {answer.reason}")
            action = situation.actions[answer] if takes_text else answer
            observation, _, terminated, truncated, info = recorder.step(action)
            situation = _situation(recorder, observation, info)
            is_over = terminated or truncated
        yield recorder.take()


def _situation(env: gym.Env[Any, Any], observation: dict[str, Any], info: dict[str, Any]) -> Situation:
    return Situation(0, str(observation["mission"]), str(observation["text"]), actions_of(info), env)


def _decisions(trajectory: Trajectory, tokenizer: Tokenizer, acting: Acting) -> dict[str, Column]:
    """Return how the actions of an episode were decided on, as infos."""
    turns = trajectory.turns
    infos: dict[str, Column] = {
        "logprob": np.array([np.nan, *(turn.logprob for turn in turns)], dtype=np.float64),
        "policy_version": np.array([-1, *(turn.policy_version for turn in turns)], dtype=np.int64),
    }
    if acting.how in ("text", "reason"):
        infos["said"] = ("", *(tokenizer.decode(turn.kept_ids) for turn in turns))
    return infos
