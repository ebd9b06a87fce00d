"""Demonstrations: what an expert does, and any recorded episode as a trajectory in the learner's own prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np

from llmgym.errors import EnvError
from llmgym.rollout.player import Outcome, make_turn
from llmgym.rollout.recording import Episode, Recorder
from llmgym.text.histories import History
from llmgym.text.prompt import PromptSettings, make_prompt
from llmgym.types import NO_VERSION, Acting, Choice, FloatArray, TokenIds, Tokenizer, Trajectory, Turn

__all__ = ["ADVISED", "Advice", "Expert", "Speaker", "demonstrate", "retell"]

ADVISED = "advised_action"
"""Name of the infos of an episode that hold what the expert would have done, where something else was done at times."""

_MAX_FAILURES = 100
"""Episodes in a row that an expert may fail at before it is taken for none."""
_SLIPS_STREAM = 1
"""Names the draws of slips, apart from those of the environment."""


@dataclass(frozen=True, slots=True)
class Expert:
    """Who knows how to solve an environment.

    Attributes:
        name: of the sort of expert.
        begin: given an environment that was just reset, a function that returns the next action as an index into
            `info["actions"]`; either may raise an EnvError where it gives up. Where something else was done than it
            said, the function is given that action at the next call.
        is_optimal: whether nobody does better. Then an episode without a reward was bad luck, and is shown like the
            others; otherwise it is a mistake, and left out.
    """

    name: str
    begin: Callable[[gym.Env[Any, Any]], Callable[..., int]]
    is_optimal: bool = False


class Advice:
    """What an expert advises in one episode, step by step, whatever is done."""

    def __init__(self, expert: Expert, env: gym.Env[Any, Any]) -> None:
        """Let an expert look at an environment that was just reset.

        Raises:
            EnvError: it gives up.
        """
        self._act = expert.begin(env)
        self._actions: list[int] = []
        self._done_instead: tuple[int, ...] = ()

    def ask(self) -> int:
        """Return what the expert would do now; to be asked once before every step.

        Raises:
            EnvError: it gives up.
        """
        self._actions.append(self._act(*self._done_instead))
        self._done_instead = ()
        return self._actions[-1]

    def note(self, action: int) -> None:
        """Note what is done instead."""
        if action != self._actions[-1]:
            self._done_instead = (action,)

    def beside(self, episode: Episode) -> Episode:
        """Return an episode with the advice on each of its steps."""
        # Nothing is advised for the observation after the last step.
        return replace(episode, infos={**episode.infos, ADVISED: np.array([*self._actions[: episode.num_steps], -1])})


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
            return Choice(action, 0.0, unknown, ids, NO_VERSION, (*ids[action], *end), text=text, is_ended=is_ended)
        if self.acting.ends_candidates and self.tokenizer.eos_token_id is not None:
            ids = tuple((*one, self.tokenizer.eos_token_id) for one in ids)
        cue_ids = self._encode(self.acting.cue) if self.acting.how == "reason" else ()
        return Choice(action, 0.0, unknown, ids, NO_VERSION, cue_ids=cue_ids)

    def _end(self) -> tuple[TokenIds, bool]:
        """Return what ends an answer, and whether that is the end of the sequence."""
        if self.tokenizer.eos_token_id is not None:
            return (self.tokenizer.eos_token_id,), True
        return (self._encode(self.acting.stop[0]) if self.acting.stop else ()), False

    def _encode(self, text: str) -> TokenIds:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))


def demonstrate(
    env: gym.Env[Any, Any], expert: Expert, seeds: Iterator[int], num_episodes: int, *, slips: float = 0.0
) -> Iterator[Episode]:
    """Yield episodes of an expert; left out are those it gives up on, and, unless it is optimal, those it fails at.

    An expert that never errs does not show how to recover. Where its hand slips now and then, and a random action is
    taken, it does (Laskey et al. 2017, https://arxiv.org/abs/1703.09327); what it would have done is noted in
    `Episode.infos` under `ADVISED`.

    Args:
        env: a text environment.
        expert: who solves it.
        seeds: of the episodes, as many as it takes.
        num_episodes: how many to yield.
        slips: share of the steps, from 0 to below 1, in which any of the actions is taken instead.

    Raises:
        EnvError: it fails again and again, or slips is out of its range.
    """
    if not 0 <= slips < 1:
        raise EnvError(f"Expected slips from 0 to below 1, found {slips}. Set a share of the steps, such as 0.2.")
    recorder = Recorder(env)
    num_yielded = num_failed = 0
    while num_yielded < num_episodes:
        played = _play(recorder, expert, next(seeds), slips)
        if isinstance(played, Episode) and (expert.is_optimal or played.rewards[-1] > 0):
            num_yielded, num_failed = num_yielded + 1, 0
            yield played
            continue
        num_failed += 1
        if num_failed == _MAX_FAILURES:
            reason = "The last one ended without a reward." if isinstance(played, Episode) else str(played)
            raise EnvError(
                f"Expected the {expert.name} to solve {env}, but it failed at {num_failed} episodes in a row. {reason}"
            )


def retell(episodes: Iterable[Episode], speaker: Speaker, *, takes_advice: bool = True) -> Iterator[Trajectory]:
    """Yield recorded episodes as trajectories, as if the learner had played them with log-probability 0.

    No environment is needed: the texts are told again in the learner's own prompts. Where an expert's advice was noted
    beside what was done, the advice is each turn's action, and the prompts tell what was done.

    Args:
        episodes: what was recorded.
        speaker: tells them.
        takes_advice: whether advice counts; without, each turn's action is what was done, to which its reward belongs.
    """
    history = speaker.make_history()
    for episode in episodes:
        history.begin(episode.mission, episode.texts[0], episode.candidates[0])
        turns: list[Turn] = []
        advised = episode.infos.get(ADVISED, episode.actions) if takes_advice else episode.actions
        for step, action in enumerate(episode.actions):
            terminated = bool(episode.terminations[step])
            outcome = Outcome(
                text=episode.texts[step + 1],
                actions=() if terminated else episode.candidates[step + 1],
                reward=float(episode.rewards[step]),
                terminated=terminated,
                truncated=bool(episode.truncations[step]),
            )
            done = speaker.say(history, action)
            told = done if advised[step] == action else speaker.say(history, int(advised[step]))
            turns.append(make_turn(history.prompt_ids, told, outcome))
            if not terminated:
                history.extend(done, outcome.text, outcome.actions)
        final = None if turns[-1].terminated else history.prompt_ids
        yield Trajectory(tuple(turns), final, 0, episode.seed)


def _play(recorder: Recorder, expert: Expert, seed: int, slips: float) -> Episode | EnvError:
    """Play an episode; return it, or why the expert gave up."""
    _, info = recorder.reset(seed=seed)
    takes_text, is_over = not hasattr(recorder.action_space, "n"), False
    rng = np.random.default_rng([seed, _SLIPS_STREAM])
    advice = None
    while not is_over:
        try:
            advice = advice or Advice(expert, recorder)
            index = advice.ask()
        except EnvError as failure:
            return failure
        if slips and rng.random() < slips:
            index = int(rng.integers(len(info["actions"])))
            advice.note(index)
        action = info["actions"][index] if takes_text else index
        _, _, terminated, truncated, info = recorder.step(action)
        is_over = terminated or truncated
    episode = recorder.take()
    return advice.beside(episode) if slips and advice else episode
