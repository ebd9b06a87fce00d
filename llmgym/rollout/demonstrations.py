"""Demonstrations: what an expert does, as trajectories in the learner's own prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from llmgym.rollout.player import Outcome, make_turn
from llmgym.text.histories import History, actions_of
from llmgym.text.prompt import PromptSettings, make_prompt
from llmgym.types import Acting, Choice, FloatArray, TokenIds, Tokenizer, Trajectory, Turn

__all__ = ["Expert", "Speaker", "demonstrate"]

Expert = Callable[[gym.Env[Any, Any]], Callable[[], int]]
"""Given an environment that was just reset, a function that returns the expert's next action."""


@dataclass(frozen=True, slots=True)
class Speaker:
    """How an expert's actions are said, so that a learner can say them likewise.

    For "text" an answer is the action and the end of the sequence (a stop text, where the tokenizer has none). For
    "reason" there is no thought: only the action behind the cue is there to learn from.

    Attributes:
        tokenizer: of the learner.
        prompt: how the history is told.
        acting: how the learner takes actions.
        max_tokens: the model's context.
    """

    tokenizer: Tokenizer
    prompt: PromptSettings
    acting: Acting
    max_tokens: int

    def make_history(self) -> History:
        """Return the history of one episode."""
        return History(make_prompt(self.prompt, self.tokenizer, self.max_tokens, self.acting.how), self.acting)

    def say(self, history: History, action: int) -> Choice:
        """Return an expert's action as if the learner had chosen it, with log-probability 0."""
        ids = history.candidate_ids
        unknown: FloatArray = np.full(len(ids), np.nan, dtype=np.float32)
        if self.acting.how == "text":
            end, is_ended = self._end()
            text = history.actions[action]
            return Choice(action, 0.0, unknown, ids, 0, (*ids[action], *end), text=text, is_ended=is_ended)
        if self.acting.ends_candidates and self.tokenizer.eos_token_id is not None:
            ids = tuple((*one, self.tokenizer.eos_token_id) for one in ids)
        cue_ids = self._encode(self.acting.cue) if self.acting.how == "reason" else ()
        return Choice(action, 0.0, unknown, ids, 0, cue_ids=cue_ids)

    def _end(self) -> tuple[TokenIds, bool]:
        """Return what ends an answer, and whether that is the end of the sequence."""
        if self.tokenizer.eos_token_id is not None:
            return (self.tokenizer.eos_token_id,), True
        return (self._encode(self.acting.stop[0]) if self.acting.stop else ()), False

    def _encode(self, text: str) -> TokenIds:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))


def demonstrate(
    env: gym.Env[Any, Any], expert: Expert, seeds: Iterator[int], num_episodes: int, speaker: Speaker
) -> Iterator[Trajectory]:
    """Yield episodes that the expert solved; those in which it ended without a reward are left out.

    Args:
        env: a text environment.
        expert: who solves it.
        seeds: of the episodes, as many as it takes.
        num_episodes: how many to yield.
        speaker: how what the expert does is said.
    """
    history = speaker.make_history()
    num_yielded = 0
    while num_yielded < num_episodes:
        trajectory = _episode(env, expert, next(seeds), history, speaker)
        if trajectory.turns[-1].reward > 0:
            num_yielded += 1
            yield trajectory


def _episode(env: gym.Env[Any, Any], expert: Expert, seed: int, history: History, speaker: Speaker) -> Trajectory:
    observation, info = env.reset(seed=seed)
    history.begin(str(observation["mission"]), str(observation["text"]), actions_of(info))
    act, takes_text = expert(env), not hasattr(env.action_space, "n")
    turns: list[Turn] = []
    while not (turns and (turns[-1].terminated or turns[-1].truncated)):
        choice = speaker.say(history, act())
        action = history.actions[choice.index] if takes_text else choice.index
        observation, reward, terminated, truncated, info = env.step(action)
        actions = () if terminated else actions_of(info)
        outcome = Outcome(str(observation["text"]), actions, float(reward), bool(terminated), bool(truncated))
        turns.append(make_turn(history.prompt_ids, choice, outcome))
        if not terminated:
            history.extend(choice, outcome.text, outcome.actions)
    final = None if turns[-1].terminated else history.prompt_ids
    return Trajectory(tuple(turns), final, 0, seed)
