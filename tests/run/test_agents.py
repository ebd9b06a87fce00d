"""Agents that are no language model: chance and the bot at the known rates, what they may do, what is refused."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

import llmgym  # noqa: F401  (registers the environments)
from llmgym.envs.babyai import KINDS
from llmgym.errors import ConfigError, EnvError
from llmgym.rollout.success import SuccessRate
from llmgym.run.agents import Agent, GivesUp, RandomAgent, Situation, find_agent
from llmgym.run.measure import measure_agent
from llmgym.run.playing import PlayedEpisode, dealt_seeds, endless_seeds, play_agent
from llmgym.run.policy import check_policy
from llmgym.run.report import SilentReporter
from llmgym.run.seeds import HELD_OUT_SEED
from llmgym.text.rewording import Rewording

MIXED = "llmgym/BabyAI-MixedTrainLocal-v0"
SMALL = "llmgym/BabyAI-GoToLocalS6N2-v0"
FREE_TEXT = "llmgym/FrozenLake-v0"


def measure(agent: Agent, env_id: str, episodes: int, **settings: object) -> SuccessRate:
    return measure_agent(agent, env_id, settings, episodes=episodes, num_envs=32, reporter=SilentReporter())


def play(agent: Agent, num_envs: int, episodes: int = 9, env_id: str = SMALL, **more: object) -> list[PlayedEpisode]:
    seeds = dealt_seeds(HELD_OUT_SEED, episodes, num_envs)
    played = play_agent(agent, env_id, {}, num_envs, episode_seed=seeds, **more)  # type: ignore[arg-type]
    return sorted(played, key=lambda one: one.seed)


def outcomes(played: Sequence[PlayedEpisode]) -> list[tuple[int, float, int]]:
    return [(one.seed, one.episode_return, one.num_turns) for one in played]


class Looker(RandomAgent):
    """Draws like chance, but looks into the environments."""

    needs_env = True

    def act(self, situations: Sequence[Situation]) -> list[int]:
        assert all(one.env is not None for one in situations)
        return super().act(situations)


class Quitter(RandomAgent):
    """Gives up the episodes of odd seeds, or all of them, at the second turn."""

    def __init__(self, *, always: bool = False) -> None:
        super().__init__()
        self._always = always
        self._turns: dict[int, int] = {}
        self._gives_up: dict[int, bool] = {}

    def begin(self, situation: Situation, seed: int) -> None:
        super().begin(situation, seed)
        self._turns[situation.env_index] = 0
        self._gives_up[situation.env_index] = self._always or seed % 2 == 1

    def act(self, situations: Sequence[Situation]) -> list[int | GivesUp]:  # type: ignore[override]
        answers: list[int | GivesUp] = [*super().act(situations)]
        for position, one in enumerate(situations):
            self._turns[one.env_index] += 1
            if self._turns[one.env_index] == 2 and self._gives_up[one.env_index]:
                answers[position] = GivesUp("too odd")
        return answers


def test_chance_succeeds_as_often_as_was_measured_in_every_kind() -> None:
    rates = {kind: measure(RandomAgent(), MIXED, 96, kind=kind).success for kind in KINDS}
    known = {"goto": 0.33, "pickup": 0.15, "open": 0.01, "putnext": 0.0, "pick_up_seq_go_to": 0.09}
    assert rates == pytest.approx(known, abs=0.1)
    assert rates["open"] <= 0.05
    assert rates["putnext"] <= 0.03


@pytest.mark.parametrize("kind", KINDS)
def test_the_bot_solves_every_kind(kind: str) -> None:
    agent = find_agent("bot", MIXED, {"kind": kind})
    assert agent is not None
    assert (agent.name, agent.needs_env) == ("bot", True)
    measured = measure(agent, MIXED, 6, kind=kind)
    assert (measured.success, measured.given_up) == (1.0, 0)


def test_what_chance_does_in_an_episode_depends_on_its_seed_only() -> None:
    few = outcomes(play(RandomAgent(), 2))
    assert [seed for seed, _, _ in few] == [HELD_OUT_SEED + number for number in range(9)]
    assert outcomes(play(RandomAgent(), 4)) == few
    assert len(set(few)) > 1


def test_environments_do_the_same_one_by_one_and_all_at_once() -> None:
    assert outcomes(play(Looker(), 3)) == outcomes(play(RandomAgent(), 3))
    assert outcomes(play(Looker(), 3, env_id=FREE_TEXT)) == outcomes(play(RandomAgent(), 3, env_id=FREE_TEXT))


@pytest.mark.parametrize("agent_class", [RandomAgent, Looker])
def test_agents_read_the_new_words(agent_class: type[RandomAgent]) -> None:
    read: list[Situation] = []

    class Reader(agent_class):  # type: ignore[misc, valid-type]
        def act(self, situations: Sequence[Situation]) -> list[int]:
            read.extend(situations)
            return [one.actions.index("rotate left") for one in situations]

    rewording = Rewording({"go to": "walk to", "You see": "There is"}, {"turn left": "rotate left"})
    played = play(Reader(), 2, episodes=3, telling=rewording)
    assert len(played) == 3
    assert all(one.mission.startswith("walk to ") for one in read)
    assert all("You see" not in one.text for one in read)
    assert any("There is" in one.text for one in read)


def test_an_episode_that_is_given_up_is_a_failure_and_is_told() -> None:
    notes: list[str] = []

    class Listener(SilentReporter):
        def note(self, text: str) -> None:
            notes.append(text)

    measured = measure_agent(Quitter(), SMALL, {}, episodes=10, num_envs=3, reporter=Listener())
    assert (measured.episodes, measured.given_up) == (10, 5)
    assert notes == [
        "5 of 10 episodes were given up and count as failures (seeds 1073741825, 1073741827, 1073741829, 1073741831, "
        "1073741833). The first: too odd"
    ]


def test_giving_up_everything_is_an_error() -> None:
    with pytest.raises(EnvError, match=r"All 4 episodes were given up\. The first: too odd"):
        measure(Quitter(always=True), SMALL, 4)


def test_an_environment_without_an_expert_has_no_bot() -> None:
    with pytest.raises(ConfigError, match=r"Expected an environment that has an expert, .* found 'llmgym/CartPole-v0'"):
        find_agent("bot", "llmgym/CartPole-v0", {})


def test_a_policy_that_is_nothing_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"Expected a policy: random, bot, .*found 'rnadom'\. Did you mean 'random'"):
        check_policy("rnadom")


def test_dealt_seeds_are_consecutive_and_end() -> None:
    seeds = dealt_seeds(100, 5, 2)
    assert [seeds(env, number) for number in range(3) for env in range(2)] == [100, 101, 102, 103, 104, None]


def test_endless_seeds_begin_with_the_given_ones_and_go_on_with_held_out_ones() -> None:
    seeds = endless_seeds(10**9)
    assert [seeds(env, 0) for env in range(3)] == [10**9, 10**9 + 1, 10**9 + 2]
    later = [seeds(env, number) for env in range(3) for number in range(1, 50)]
    assert len(set(later)) == len(later)
    assert all(one is not None and one >= HELD_OUT_SEED for one in later)
    assert later[0] == endless_seeds(10**9)(0, 1)


def test_episodes_come_in_the_order_in_which_they_end() -> None:
    ends, clock = [], [0] * 4
    for count, one in enumerate(play_agent(RandomAgent(), SMALL, {}, 4, episode_seed=endless_seeds(3))):
        clock[one.env_index] += one.num_turns
        ends.append((clock[one.env_index], one.env_index))
        if count == 30:
            break
    assert ends == sorted(ends)
