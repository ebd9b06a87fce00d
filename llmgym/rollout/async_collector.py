"""The collector without a barrier: an environment steps as soon as its own action is there. Knows no learner."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gymnasium as gym

from llmgym.errors import EnvError, PromptError
from llmgym.rollout.collector import options
from llmgym.rollout.player import EpisodeSeed, Outcome, Player
from llmgym.rollout.reward import checked_reward
from llmgym.text.histories import History, actions_of
from llmgym.text.prompt import PromptSettings, make_prompt
from llmgym.text.state_key import env_state_key
from llmgym.types import Acting, Choice, Decides, Parser, Trajectory

__all__ = ["AsyncCollector"]

Env = gym.Env[Any, Any]


class AsyncCollector:
    """Plays single text environments with an engine, none waiting for another, and hands out trajectories.

    While some environments step, the answers for the others are still being written: worth it where answers differ
    in length ("text", "reason"). What is collected is the same as by `Collector`, with the same seeds.

    While it collects, nobody else may start decisions on the engine.
    """

    def __init__(
        self,
        envs: Sequence[Env],
        engine: Decides,
        *,
        prompt: PromptSettings,
        acting: Acting,
        seed: int,
        episode_seed: EpisodeSeed,
        parse: Parser | None = None,
        keys_states: bool = False,
        gives_up: bool = False,
    ) -> None:
        """Reset all environments to their first episodes; see `Collector`.

        Args:
            envs: environments that were made one by one, at least one.

        Raises:
            EnvError: there is no environment.
        """
        if not envs:
            raise EnvError("Expected at least one environment to collect from, found none. Give a list of them.")
        self._envs = envs
        self._engine = engine
        self._acting = acting
        self._parse = parse
        self._keys_states = keys_states
        self._takes_text = [not hasattr(env.action_space, "n") for env in envs]
        self._tickets: dict[int, Player] = {}
        self._players = [
            Player(
                env_index,
                History(make_prompt(prompt, engine.tokenizer, engine.max_context_tokens, acting.how), acting),
                seed=seed,
                episode_seed=episode_seed,
                gives_up=gives_up,
            )
            for env_index in range(len(envs))
        ]
        for player in self._players:
            self._begin(player)

    def collect(self, num_steps: int) -> list[Trajectory]:
        """Take num_steps steps in every environment; unfinished episodes are cut, and go on in the next call.

        Environments that have taken theirs wait for the others, so that weights can be swapped between calls.

        Returns:
            trajectories in the order of environments and time; their turns add up to num_steps x num_envs.
        """
        self._begin_idle()
        num_left = [num_steps] * len(self._players)
        collected = []
        if num_steps > 0:
            self._start_all()
        while self._tickets:
            for player, choice in self._made():
                trajectory = self._step(player, choice)
                if trajectory is not None:
                    collected.append(trajectory)
                num_left[player.env_index] -= 1
                if num_left[player.env_index] and player.is_playing:
                    self._start(player)
        collected += [trajectory for player in self._players if (trajectory := player.cut()) is not None]
        return sorted(collected, key=lambda trajectory: trajectory.env_index)

    def collect_episodes(self, num_episodes: int) -> list[Trajectory]:
        """Play num_episodes whole episodes in every environment; the next call begins new ones.

        Returns:
            trajectories in the order of environments and time.
        """
        for player in self._players:
            player.allow(num_episodes)
        self._begin_idle()
        collected = list(self.episodes())
        for player in self._players:
            player.allow(None)
        return sorted(collected, key=lambda trajectory: trajectory.env_index)

    def episodes(self) -> Iterator[Trajectory]:
        """Play until every environment has run out of episode seeds; yield each whole episode when it ends."""
        for player in self._players:
            yield from self._go_on(player)
        while self._tickets:
            ended = []
            for player, choice in self._made():
                trajectory = self._step(player, choice)
                if trajectory is not None:
                    ended.append(trajectory)
                ended += self._go_on(player)
            yield from ended

    def _go_on(self, player: Player) -> Iterator[Trajectory]:
        """Begin the next decision of an environment; yield the episodes given up before there is one."""
        while player.is_playing:
            if player.has_given_up:
                yield player.break_off()
                self._begin(player)
                continue
            try:
                self._start(player)
                return
            except PromptError as problem:
                player.outgrow(problem)

    def _start_all(self) -> None:
        """Begin a decision in every environment that plays."""
        for player in self._players:
            if player.is_playing:
                self._start(player)

    def _start(self, player: Player) -> None:
        """Begin the next decision of one environment."""
        history = player.history
        ticket = self._engine.start(
            history.context_ids, options(history, self._acting), self._acting, player.draw_seed, parse=self._parse
        )
        self._tickets[ticket] = player

    def _made(self) -> list[tuple[Player, Choice]]:
        """Let the engine compute for a while; return the decisions that were made meanwhile.

        An error leaves no ticket behind: the engine has forgotten all decisions, too.
        """
        try:
            return [(self._tickets.pop(ticket), choice) for ticket, choice in self._engine.advance()]
        except BaseException:
            self._tickets.clear()
            raise

    def _step(self, player: Player, choice: Choice) -> Trajectory | None:
        """Step one environment; return the trajectory of the episode if it ended."""
        env_index = player.env_index
        action = player.history.actions[choice.index] if self._takes_text[env_index] else choice.index
        observation, reward, terminated, truncated, info = self._envs[env_index].step(action)
        actions = () if terminated else actions_of(info)
        outcome = Outcome(
            text=str(observation["text"]),
            actions=actions,
            reward=checked_reward(reward, self._envs[env_index], env_index, player.num_turns),
            terminated=bool(terminated),
            truncated=bool(truncated),
            state_key=self._state_key(env_index, observation),
        )
        trajectory = player.take(choice, outcome)
        if terminated or truncated:
            self._begin(player)
        return trajectory

    def _begin_idle(self) -> None:
        """Reset every environment that is between two episodes."""
        for player in self._players:
            if not player.is_playing:
                self._begin(player)

    def _state_key(self, env_index: int, observation: Mapping[str, Any]) -> int:
        """Return the key of an environment's state, where it is asked for."""
        return env_state_key(self._envs[env_index], observation) if self._keys_states else 0

    def _begin(self, player: Player) -> None:
        """Reset an environment to its next episode, if there is one."""
        seed = player.next_episode()
        if seed is not None:
            observation, info = self._envs[player.env_index].reset(seed=seed)
            try:
                player.history.begin(str(observation["mission"]), str(observation["text"]), actions_of(info))
            except PromptError as problem:
                player.outgrow(problem)
            player.state_key = self._state_key(player.env_index, observation)
