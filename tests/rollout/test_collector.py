"""The collector: whole episodes, cut episodes, seeds, and what the turns say."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from llmgym.engine.scripted_engine import ScriptedEngine
from llmgym.errors import EnvError
from llmgym.rollout.collector import Collector
from llmgym.text import PromptSettings, TextEnv
from llmgym.types import Acting


class Walk(gym.Env):
    """A walk to the right end of a line whose length is drawn from the seed; five steps at most."""

    observation_space = gym.spaces.Discrete(100)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.goal = int(self.np_random.integers(2, 4))
        self.place = self.steps = 0
        return self.place, {}

    def step(self, action):
        self.place += int(action)
        self.steps += 1
        done = self.place == self.goal
        return self.place, float(done), done, self.steps >= 5 and not done, {}


def text_env() -> TextEnv:
    return TextEnv(Walk(), describe=lambda place: f"at {place}", actions=("stay", "walk"), mission="walk")


def collector(num_envs: int, *, engine=None, episodes: int | None = None) -> Collector:
    venv = SyncVectorEnv([text_env] * num_envs, autoreset_mode=AutoresetMode.DISABLED)
    return Collector(
        venv,
        engine or ScriptedEngine(lambda *_: 0.0),
        prompt=PromptSettings(),
        acting=Acting(),
        seed=3,
        episode_seed=lambda env, number: None if episodes is not None and number >= episodes else 100 * env + number,
    )


def facts(trajectory):
    return (
        trajectory.env_index,
        trajectory.seed,
        [(t.action, t.reward, t.prompt_ids.tolist()) for t in trajectory.turns],
    )


def test_steps_add_up_and_no_episode_is_dropped() -> None:
    trajectories = collector(3).collect(20)
    assert sum(len(one.turns) for one in trajectories) == 60
    for env_index in range(3):
        mine = [one for one in trajectories if one.env_index == env_index]
        assert [one.seed for one in mine] == [100 * env_index + number for number in range(len(mine))]
        for one in mine[:-1]:
            assert one.turns[-1].terminated or one.turns[-1].truncated


def test_cut_episode_goes_on_in_the_next_call() -> None:
    whole = collector(2).collect(12)
    parts = collector(2)
    first, second = parts.collect(5), parts.collect(7)

    def turns(trajectories, env_index):
        return [fact for one in trajectories if one.env_index == env_index for fact in facts(one)[2]]

    for env_index in range(2):
        assert turns(first, env_index) + turns(second, env_index) == turns(whole, env_index)
    cut = [one for one in first if not (one.turns[-1].terminated or one.turns[-1].truncated)]
    assert cut, "five steps do not end every episode at once"
    for one in cut:
        following = next(other for other in second if (other.env_index, other.seed) == (one.env_index, one.seed))
        np.testing.assert_array_equal(one.final_prompt_ids, following.turns[0].prompt_ids)


def test_environment_k_does_not_depend_on_how_many_there_are() -> None:
    alone = [facts(one) for one in collector(1).collect(30)]
    together = [facts(one) for one in collector(4).collect(30) if one.env_index == 0]
    assert alone == together


def test_environments_and_episodes_draw_different_actions() -> None:
    taken = {tuple(turn.action for turn in one.turns) for one in collector(4).collect(40)}
    assert len(taken) > 3


def test_final_prompt_is_there_unless_the_episode_terminated() -> None:
    trajectories = collector(4).collect(40)
    kinds = set()
    for one in trajectories:
        last = one.turns[-1]
        kinds.add((last.terminated, last.truncated))
        assert (one.final_prompt_ids is None) == last.terminated
        if one.final_prompt_ids is not None:
            length = len(last.prompt_ids)
            np.testing.assert_array_equal(one.final_prompt_ids[:length], last.prompt_ids)
    assert kinds == {(True, False), (False, True), (False, False)}


def test_behaviour_logprob_is_that_of_the_distribution_sampled_from() -> None:
    engine = ScriptedEngine(lambda _, candidate: -1.0 if "walk" in candidate else -3.0)
    for one in collector(2, engine=engine).collect(10):
        for turn in one.turns:
            expected = np.log(np.exp([-3.0, -1.0]) / np.exp([-3.0, -1.0]).sum())
            assert turn.logprob == pytest.approx(expected[turn.action], abs=1e-6)


def test_policy_versions_change_at_the_turn_of_the_swap() -> None:
    engine = ScriptedEngine(lambda *_: 0.0)
    playing = collector(1, engine=engine)
    before = playing.collect(2)
    engine.load_weights([], 5)
    after = playing.collect(2)
    assert [turn.policy_version for one in before for turn in one.turns] == [0, 0]
    assert [turn.policy_version for one in after for turn in one.turns] == [5, 5]


def test_episodes_are_played_to_their_end_and_counted_once() -> None:
    trajectories = list(collector(3, episodes=4).episodes())
    assert sorted(one.seed for one in trajectories) == sorted(
        100 * env + number for env in range(3) for number in range(4)
    )
    assert all(one.turns[-1].terminated or one.turns[-1].truncated for one in trajectories)


def test_vector_that_resets_by_itself_is_refused() -> None:
    venv = SyncVectorEnv([text_env])
    with pytest.raises(EnvError, match=r"does not reset by itself, found autoreset_mode=AutoresetMode\.NEXT_STEP"):
        Collector(
            venv,
            ScriptedEngine(),
            prompt=PromptSettings(),
            acting=Acting(),
            seed=0,
            episode_seed=lambda _env, number: number,
        )
