"""Play: one episode, step by step, with what the policy saw and what it thought of every action."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from llmgym.config import RunConfig
from llmgym.run.policy import serve_policy
from llmgym.run.seeds import HELD_OUT_SEED
from llmgym.run.venv import check_env_id
from llmgym.text.histories import Histories, as_vector
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
        probabilities: of each candidate, adding up to 1.
        chosen: index of the action taken.
        reward: of the step that followed.
        terminated: whether that step ended the episode by the environment's rules.
        truncated: whether it ended it by a limit.
        frame: uint8 (height, width, 3); the environment's picture before the step, or None.
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


def play(
    policy: str,
    env_id: str,
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
        seed: which held-out episode, from 0, and of the actions drawn.
        temperature: of the actions; as the policy's run evaluates if None.
        max_turns: stop after so many, though the episode goes on.
        render: whether to keep a picture of every step.

    Raises:
        LLMGymError: there is no such policy or environment.
    """
    check_env_id(env_id)
    with serve_policy(policy, RunConfig(env=env_id)) as served:
        env = gym.make(env_id, render_mode="rgb_array" if render else None)
        config, engine = served.config, served.engine
        if temperature is None:
            temperature = config.evaluation.temperature
        acting = replace(config.acting, temperature=temperature)
        histories = Histories(1, lambda: make_prompt(config.prompt, engine.tokenizer, engine.max_context_tokens))
        seen, info = env.reset(seed=HELD_OUT_SEED + seed)
        histories.begin(0, *as_vector(seen, info))
        for turn in count() if max_turns is None else range(max_turns):
            frame: Any = env.render() if render else None
            actions = histories.actions[0]
            choice = _choose(engine, histories, acting, seed << 24 | turn)
            is_text = not isinstance(env.action_space, gym.spaces.Discrete)
            action = actions[choice.index] if is_text else choice.index
            observation, reward, terminated, truncated, info = env.step(action)
            yield PlayStep(
                turn=turn,
                mission=str(seen["mission"]),
                text=str(seen["text"]),
                actions=actions,
                probabilities=tuple(np.exp(choice.logprobs.astype(np.float64)).tolist()),
                chosen=choice.index,
                reward=float(reward),
                terminated=terminated,
                truncated=truncated,
                frame=frame,
            )
            if terminated or truncated:
                break
            histories.extend(0, choice.index, *as_vector(observation, info))
            seen = observation
        env.close()


def _choose(engine: Engine, histories: Histories, acting: Acting, seed: int) -> Choice:
    """Draw the next action of the one episode."""
    (choice,) = engine.choose(
        [histories.prompts[0].token_ids],
        [histories.candidate_ids[0]],
        how=acting.how,
        temperature=acting.temperature,
        seed=[seed],
        normalize=acting.normalize,
    )
    return choice
