"""The shared engine: one thread acts, another holds it still to swap weights; every decision is of one policy."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from safetensors.torch import load_file

from llmgym.engine.scripted_engine import ScriptedEngine
from llmgym.engine.shared_engine import EngineTakenError, SharedEngine
from llmgym.rollout.async_collector import AsyncCollector
from llmgym.rollout.collector import Collector
from llmgym.rollout.staleness import drop_stale
from llmgym.text import PromptSettings
from llmgym.types import Acting, Choice, Engine, Trajectory

MakeEnv = Callable[[], gym.Env[Any, Any]]
WAITS_SECONDS = 30.0


class SlowEngine(ScriptedEngine):
    """Makes one decision an `advance`, and refuses weights while others are under way, as engines of a model do."""

    def advance(self) -> list[tuple[int, Choice]]:
        return [self._made.pop(0)] if self._made else []

    def load_weights(self, named_tensors: Any, version: int) -> None:
        assert not self._made, "weights are swapped under decisions"
        super().load_weights(named_tensors, version)


def collector_of(make: MakeEnv, engine: Any, *, barrier: bool, num_envs: int = 2) -> Collector | AsyncCollector:
    settings: dict[str, Any] = {
        "prompt": PromptSettings(),
        "acting": Acting(),
        "seed": 3,
        "episode_seed": lambda env, number: 100 * env + number,
    }
    if barrier:
        return Collector(SyncVectorEnv([make] * num_envs, autoreset_mode=AutoresetMode.DISABLED), engine, **settings)
    return AsyncCollector([make() for _ in range(num_envs)], engine, **settings)


def versions_of(trajectories: list[Trajectory]) -> list[list[int]]:
    return [[turn.policy_version for turn in one.turns] for one in trajectories]


class SwapsAt(gym.Wrapper[Any, Any, Any, Any]):
    """Swaps weights before a step is taken: in the midst of an episode, from where no decision is under way."""

    def __init__(self, env: gym.Env[Any, Any], swaps: dict[int, Callable[[], None]]) -> None:
        super().__init__(env)
        self.swaps, self.num_steps = swaps, 0

    def step(self, action: Any) -> Any:
        self.num_steps += 1
        self.swaps.get(self.num_steps, lambda: None)()
        return self.env.step(action)


@pytest.mark.parametrize("kind", ["reference_engine", "vllm_engine"])
def test_versions_change_at_the_very_turn_of_a_swap_in_the_midst_of_an_episode(
    kind: str, make_text_env: MakeEnv, tiny_model: Path, request: pytest.FixtureRequest
) -> None:
    engine: Engine = request.getfixturevalue(kind)
    weights = load_file(tiny_model / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    moved = {name: value + 0.05 * torch.randn(value.shape, generator=generator) for name, value in weights.items()}
    shared = SharedEngine(engine)

    def swap(version: int, named: dict[str, torch.Tensor]) -> Callable[[], None]:
        def load() -> None:
            with shared.held() as held:
                held.load_weights(named.items(), version)

        return load

    try:
        # The action of the second step has been drawn when the weights change: the third turn is the first of the new.
        env = SwapsAt(make_text_env(), {2: swap(5, moved), 4: swap(6, weights)})
        playing = collector_of(lambda: env, shared, barrier=False, num_envs=1)
        collected: list[Trajectory] = []
        thread = threading.Thread(target=lambda: collected.extend(playing.collect(6)))
        thread.start()
        thread.join()
        assert [version for one in versions_of(collected) for version in one] == [0, 0, 5, 5, 6, 6]
        assert any(len(set(one)) > 1 for one in versions_of(collected)), "a swap falls into an episode"
        kept = drop_stale(collected, 6, 1)
        assert {version for one in versions_of(kept) for version in one} <= {5, 6}
        assert all(
            (0 in versions) == (one not in kept)
            for one, versions in zip(collected, versions_of(collected), strict=True)
        )
        # Each turn is of the weights that its version says.
        for turn in (turn for one in collected for turn in one.turns):
            engine.load_weights((moved if turn.policy_version == 5 else weights).items(), 9)
            (choice,) = engine.act([turn.prompt_ids], [turn.candidate_ids], Acting(), [0])
            assert float(choice.logprobs[turn.action]) == pytest.approx(turn.logprob, abs=1e-4)
    finally:
        engine.load_weights(weights.items(), 0)


@pytest.mark.parametrize("barrier", [True, False])
def test_weights_are_swapped_by_another_thread_while_episodes_go_on(make_text_env: MakeEnv, barrier: bool) -> None:
    engine = SlowEngine()
    shared = SharedEngine(engine)
    playing = collector_of(make_text_env, shared, barrier=barrier)
    collected: list[Trajectory] = []
    thread = threading.Thread(target=lambda: collected.extend(playing.collect(400)))
    thread.start()
    version = 0
    while thread.is_alive() and version < 20:
        version += 1
        with shared.held() as held:
            held.load_weights([], version)
        time.sleep(0.002)
    thread.join(WAITS_SECONDS)
    assert not thread.is_alive()
    assert sum(len(one.turns) for one in collected) == 800
    for env_index in range(2):
        mine = [version for one in collected if one.env_index == env_index for version in versions_of([one])[0]]
        assert mine == sorted(mine), "versions only grow"
        assert len(set(mine)) > 2, "weights were swapped meanwhile"


def test_what_is_collected_is_the_same_through_a_shared_engine(make_text_env: MakeEnv) -> None:
    for barrier in (True, False):
        plain = collector_of(make_text_env, SlowEngine(), barrier=barrier).collect(20)
        shared = collector_of(make_text_env, SharedEngine(SlowEngine()), barrier=barrier).collect(20)
        assert [[turn.action for turn in one.turns] for one in shared] == [
            [turn.action for turn in one.turns] for one in plain
        ]


def test_decisions_begun_while_somebody_waits_are_made_by_the_new_policy() -> None:
    engine = SlowEngine()
    shared = SharedEngine(engine)
    first = shared.start("a", ["x", "y"], Acting(), 0)
    is_held, swapped = threading.Event(), []

    def swap() -> None:
        with shared.held() as held:
            is_held.set()
            held.load_weights([], 7)
            swapped.append(True)

    thread = threading.Thread(target=swap)
    thread.start()
    while not shared._is_wanted:
        time.sleep(0.001)
    second = shared.start("a", ["x", "y"], Acting(), 0)
    assert not is_held.is_set(), "a decision is under way"
    made = dict(shared.advance())
    assert list(made) == [first]
    assert made[first].policy_version == 0
    made = dict(shared.advance())
    thread.join(WAITS_SECONDS)
    assert swapped
    assert list(made) == [second]
    assert made[second].policy_version == 7


def test_a_thread_that_acts_ends_once_the_engine_is_taken_away(make_text_env: MakeEnv) -> None:
    shared = SharedEngine(ScriptedEngine())
    playing = collector_of(make_text_env, shared, barrier=True)
    ended: list[BaseException] = []

    def play() -> None:
        try:
            playing.collect(10**9)
        except EngineTakenError as error:
            ended.append(error)

    thread = threading.Thread(target=play)
    thread.start()
    shared.take_away()
    thread.join(WAITS_SECONDS)
    assert len(ended) == 1
    with pytest.raises(EngineTakenError):
        shared.start("a", ["x"], Acting(), 0)


def test_an_engine_that_was_left_within_a_decision_cannot_be_held() -> None:
    shared = SharedEngine(SlowEngine())
    shared.start("a", ["x", "y"], Acting(), 0)
    shared.take_away()
    with pytest.raises(EngineTakenError), shared.held():
        pass


def test_an_error_of_the_engine_leaves_no_decision_under_way() -> None:
    class Failing(SlowEngine):
        def advance(self) -> list[tuple[int, Choice]]:
            self._made.clear()
            raise ValueError("broken")

    shared = SharedEngine(Failing())
    shared.start("a", ["x", "y"], Acting(), 0)
    with pytest.raises(ValueError, match="broken"):
        shared.advance()
    with shared.held() as engine:
        assert isinstance(engine, Engine)
