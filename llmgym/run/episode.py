"""Play: one episode, step by step, with what the policy saw and what it thought of every action."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from llmgym.candidates import close_prefixes, constrained_logprobs
from llmgym.config import RunConfig
from llmgym.rollout.collector import options
from llmgym.run.policy import serve_policy
from llmgym.run.seeds import HELD_OUT_SEED
from llmgym.run.venv import NO_SETTINGS, check_env_id, make_env
from llmgym.text.histories import History, actions_of
from llmgym.text.prompt import make_prompt
from llmgym.types import Acting, Choice, Engine

__all__ = ["PlayStep", "play"]


@dataclass(frozen=True, slots=True, eq=False)
class PlayStep:
    """One decision of an episode.

    Attributes:
        turn: 0 for the first.
        mission: what the agent is to do.
        text: what it saw.
        actions: the candidates.
        probabilities: of each candidate, adding up to 1; () where free text names the action.
        chosen: index of the action taken.
        reward: of the step that followed.
        terminated: whether that step ended the episode by the environment's rules.
        truncated: whether it ended it by a limit.
        frame: uint8 (height, width, 3); the environment's picture before the step, or None.
        said: what was written freely before the action: an answer or a thought; "" where actions are drawn at once.
        is_parsed: False where an answer named no action, and the fallback was taken.
    """

    turn: int
    mission: str
    text: str
    actions: tuple[str, ...]
    probabilities: tuple[float, ...]
    chosen: int
    reward: float
    terminated: bool
    truncated: bool
    frame: npt.NDArray[np.uint8] | None
    said: str = ""
    is_parsed: bool = True


def play(
    policy: str,
    env_id: str,
    env_settings: Mapping[str, Any] = NO_SETTINGS,
    *,
    seed: int = 0,
    temperature: float | None = None,
    max_turns: int | None = None,
    render: bool = False,
) -> Iterator[PlayStep]:
    """Play one held-out episode.

    Args:
        policy: a run folder, "random", "smollm2", a model folder, or a hub id.
        env_id: a text environment.
        env_settings: its keyword arguments.
        seed: which held-out episode, from 0, and of the actions drawn.
        temperature: of the actions; as the policy's run evaluates if None.
        max_turns: stop after so many, though the episode goes on.
        render: whether to keep a picture of every step.

    Raises:
        LLMGymError: there is no such policy or environment.
    """
    check_env_id(env_id)
    with serve_policy(policy, RunConfig(env=env_id, env_settings=dict(env_settings))) as served:
        config, engine = served.config, served.engine
        if temperature is None:
            temperature = config.evaluation.temperature
        acting = replace(config.acting, temperature=temperature)
        prompt = make_prompt(config.prompt, engine.tokenizer, engine.max_context_tokens, acting.how)
        history = History(prompt, acting)
        with closing(make_env(env_id, env_settings, render_mode="rgb_array" if render else None)) as env:
            yield from islice(_steps(env, engine, history, acting, seed, render=render), max_turns)


def _steps(
    env: gym.Env[Any, Any], engine: Engine, history: History, acting: Acting, seed: int, *, render: bool
) -> Iterator[PlayStep]:
    """Play to the end of the episode."""
    seen, info = env.reset(seed=HELD_OUT_SEED + seed)
    history.begin(str(seen["mission"]), str(seen["text"]), actions_of(info))
    is_text = not isinstance(env.action_space, gym.spaces.Discrete)
    for turn in count():
        frame: Any = env.render() if render else None
        actions = history.actions
        draw_seed = seed << 24 | turn
        (choice,) = engine.act([history.prompt_ids], [options(history, acting)], acting, [draw_seed])
        probabilities = _probabilities(engine, history, choice, acting)
        observation, reward, terminated, truncated, info = env.step(actions[choice.index] if is_text else choice.index)
        yield PlayStep(
            turn=turn,
            mission=str(seen["mission"]),
            text=str(seen["text"]),
            actions=actions,
            probabilities=probabilities,
            chosen=choice.index,
            reward=float(reward),
            terminated=terminated,
            truncated=truncated,
            frame=frame,
            said=choice.text,
            is_parsed=choice.is_parsed,
        )
        if terminated or truncated:
            return
        history.extend(choice, str(observation["text"]), actions_of(info))
        seen = observation


def _probabilities(engine: Engine, history: History, choice: Choice, acting: Acting) -> tuple[float, ...]:
    """Return the probability of every candidate; () where actions are named by free text."""
    if acting.how == "text":
        return ()
    logprobs = choice.logprobs
    if np.isnan(logprobs).any():
        # Sampling token by token knows only the path it took; scoring knows all.
        closed = close_prefixes(choice.candidate_ids, engine.tokenizer.eos_token_id)
        (tokens,) = engine.score([history.prompt_ids], [closed], "none")
        logprobs = constrained_logprobs(closed, tokens, acting.temperature)
    return tuple(np.exp(logprobs.astype(np.float64)).tolist())
