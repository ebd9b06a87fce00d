"""The player: what collecting knows of one environment. Knows neither the environment nor the engine."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from llmgym.errors import PromptError
from llmgym.text.histories import History
from llmgym.types import Choice, Trajectory, Turn

__all__ = ["EpisodeSeed", "Outcome", "Player", "make_turn"]

EpisodeSeed = Callable[[int, int], int | None]
"""(env_index, how many episodes that environment has begun) -> seed of its next episode; None: no more episodes."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an environment made of an action.

    Attributes:
        text: what is observed.
        actions: the candidates now; () where the episode terminated.
        reward: of the step.
        terminated: whether the episode ended by the rules of the environment.
        truncated: whether it ended by a limit outside of them.
        state_key: names the environment's state now: the same for equal states; 0 where nobody asked.
    """

    text: str
    actions: tuple[str, ...]
    reward: float
    terminated: bool
    truncated: bool
    state_key: int = 0


@dataclass(slots=True)
class _Episode:
    """What is going on in the environment."""

    seed: int
    number: int
    num_turns: int = 0
    turns: list[Turn] = field(default_factory=list)
    """Turns since the last trajectory was cut."""
    given_up: str = ""
    """Why it cannot go on."""


class Player:
    """One environment's episodes, from seed to trajectory.

    Every decision is drawn with a seed made of (seed, environment, episode, turn): what an environment does depends
    neither on how many others there are nor on who answers first.

    Attributes:
        env_index: which environment.
        history: what its agent has seen and said.
        state_key: names the state that the environment is in, where it is asked for.
    """

    state_key: int = 0

    def __init__(
        self, env_index: int, history: History, *, seed: int, episode_seed: EpisodeSeed, gives_up: bool = False
    ) -> None:
        self.env_index = env_index
        self.history = history
        self._seed = seed
        self._episode_seed = episode_seed
        self._gives_up = gives_up
        self._num_begun = 0
        self._num_allowed: float = math.inf
        self._episode: _Episode | None = None

    @property
    def is_playing(self) -> bool:
        """Whether an episode is going on."""
        return self._episode is not None

    @property
    def has_given_up(self) -> bool:
        """Whether the episode cannot go on: it is to be broken off."""
        return self._episode is not None and bool(self._episode.given_up)

    @property
    def num_turns(self) -> int:
        """How many turns of the episode are over."""
        return self._playing().num_turns

    @property
    def draw_seed(self) -> int:
        """Seed of the next decision: what names it, packed into one integer."""
        episode = self._playing()
        return ((self._seed << 24 | self.env_index) << 32 | episode.number) << 24 | episode.num_turns

    def allow(self, num_episodes: int | None) -> None:
        """Begin so many episodes at most from now on, counting one that goes on; None for as many as have seeds."""
        going_on = int(self.is_playing)
        self._num_allowed = math.inf if num_episodes is None else self._num_begun - going_on + num_episodes

    def next_episode(self) -> int | None:
        """Go on to the next episode; return the seed to reset with, or None where there are no more for now."""
        has_more = self._num_begun < self._num_allowed
        seed = self._episode_seed(self.env_index, self._num_begun) if has_more else None
        self._episode = None
        if seed is not None:
            self._episode = _Episode(seed, self._num_begun)
            self._num_begun += 1
        return seed

    def take(self, choice: Choice, outcome: Outcome) -> Trajectory | None:
        """Note a turn; return the trajectory that it completes, if the episode ended."""
        episode = self._playing()
        episode.turns.append(make_turn(self.history.prompt_ids, choice, outcome, state_key=self.state_key))
        episode.num_turns += 1
        self.state_key = outcome.state_key
        if not outcome.terminated:
            try:
                self.history.extend(choice, outcome.text, outcome.actions)
            except PromptError as problem:
                self.outgrow(problem)
        return self.cut() if outcome.terminated or outcome.truncated else None

    def cut(self) -> Trajectory | None:
        """Hand out the turns since the last cut, with the prompt to bootstrap from unless the episode terminated."""
        if self._episode is None or not self._episode.turns:
            return None
        turns, self._episode.turns = tuple(self._episode.turns), []
        final = None if turns[-1].terminated else self.history.prompt_ids
        return Trajectory(turns, final, self.env_index, self._episode.seed)

    def outgrow(self, problem: PromptError) -> None:
        """Note that the prompt no longer fits into the context: the episode, if one goes on, is given up.

        Raises:
            PromptError: the problem itself, where this player does not give up.
        """
        if not self._gives_up:
            raise problem
        if self._episode is not None:
            self._episode.given_up = str(problem)

    def break_off(self) -> Trajectory:
        """Hand out the turns of an episode that is given up, which may be none; there is nothing to bootstrap from."""
        episode = self._playing()
        return Trajectory(tuple(episode.turns), None, self.env_index, episode.seed, episode.given_up)

    def _playing(self) -> _Episode:
        assert self._episode is not None, "only environments that play are stepped"
        return self._episode


def make_turn(prompt_ids: npt.NDArray[np.int32], choice: Choice, outcome: Outcome, *, state_key: int = 0) -> Turn:
    """Put a decision and its outcome together; what ended by the rules was not truncated.

    Args:
        state_key: of the state that the decision was made in.
    """
    return Turn(
        prompt_ids=prompt_ids,
        candidate_ids=choice.candidate_ids,
        action=choice.index,
        logprob=choice.logprob,
        reward=outcome.reward,
        terminated=outcome.terminated,
        truncated=outcome.truncated and not outcome.terminated,
        policy_version=choice.policy_version,
        sampled_ids=choice.sampled_ids,
        cue_ids=choice.cue_ids,
        is_parsed=choice.is_parsed,
        is_ended=choice.is_ended,
        draw_logprobs=choice.draw_logprobs,
        state_key=state_key,
    )
