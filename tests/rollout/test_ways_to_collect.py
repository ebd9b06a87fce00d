"""Collecting in all four ways to act, with and without a barrier, on the scripted engine."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import astuple
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from llmgym.engine.scripted_engine import ScriptedEngine
from llmgym.errors import ConfigError, EnvError, PromptError
from llmgym.rollout.async_collector import AsyncCollector
from llmgym.rollout.collector import Collector
from llmgym.rollout.demonstrations import Expert, Speaker, demonstrate, retell
from llmgym.rollout.store import read_trajectories, write_trajectories
from llmgym.text import PromptSettings
from llmgym.types import NO_VERSION, Acting, Trajectory, Turn

MakeEnv = Callable[[], gym.Env[Any, Any]]
ANSWERS = (" walk", " stay\nand more", " Go back.", "I do not know", "")
WAYS = [Acting(how) for how in ("score", "constrained", "text", "reason")]


class SlowEngine(ScriptedEngine):
    """Makes one decision an `advance`, the last one started first: others wait, as behind longer answers."""

    def advance(self) -> list[tuple[int, Any]]:
        return [self._made.pop()] if self._made else []


def engine(kind: type[ScriptedEngine] = ScriptedEngine) -> ScriptedEngine:
    return kind(
        logprob=lambda context, candidate: -float((len(context) * 7 + len(candidate) * 3) % 5),
        answer=lambda context, seed: ANSWERS[(len(context) + seed) % len(ANSWERS)],
    )


def collect_with(
    make: MakeEnv,
    acting: Acting,
    *,
    barrier: bool,
    num_envs: int = 3,
    limit: int | None = None,
    max_context_tokens: int = 2**31,
    **changes: Any,
) -> Collector | AsyncCollector:
    settings: dict[str, Any] = {
        "prompt": PromptSettings(),
        "acting": acting,
        "seed": 3,
        "episode_seed": lambda env, number: None if limit is not None and number >= limit else 100 * env + number,
        **changes,
    }
    answers = engine(ScriptedEngine if barrier else SlowEngine)
    answers.max_context_tokens = max_context_tokens
    if barrier:
        venv = SyncVectorEnv([make] * num_envs, autoreset_mode=AutoresetMode.DISABLED)
        return Collector(venv, answers, **settings)
    return AsyncCollector([make() for _ in range(num_envs)], answers, **settings)


def facts(trajectory: Trajectory) -> tuple[Any, ...]:
    final = None if trajectory.final_prompt_ids is None else trajectory.final_prompt_ids.tolist()
    turns = [(turn.prompt_ids.tolist(), *astuple(turn)[1:]) for turn in trajectory.turns]
    return trajectory.env_index, trajectory.seed, turns, final


@pytest.mark.parametrize("acting", WAYS, ids=lambda acting: acting.how)
def test_without_a_barrier_the_same_is_collected(make_text_env: MakeEnv, acting: Acting) -> None:
    locked = collect_with(make_text_env, acting, barrier=True)
    free = collect_with(make_text_env, acting, barrier=False)
    for num_steps in (7, 1, 12):
        assert [facts(one) for one in free.collect(num_steps)] == [facts(one) for one in locked.collect(num_steps)]


@pytest.mark.parametrize("barrier", [True, False])
def test_whole_episodes_are_collected_as_many_as_asked_for(make_text_env: MakeEnv, barrier: bool) -> None:
    playing = collect_with(make_text_env, Acting(), barrier=barrier)
    first, second = playing.collect_episodes(2), playing.collect_episodes(1)
    assert [one.seed for one in first] == [0, 1, 100, 101, 200, 201]
    assert [one.seed for one in second] == [2, 102, 202]
    assert all(one.turns[-1].terminated or one.turns[-1].truncated for one in [*first, *second])
    assert sum(len(one.turns) for one in playing.collect(4)) == 12, "steps can be collected behind episodes"
    ended = playing.collect_episodes(1)
    assert [one.env_index for one in ended] == [0, 1, 2]
    assert all(one.turns[-1].terminated or one.turns[-1].truncated for one in ended)


@pytest.mark.parametrize("barrier", [True, False])
def test_the_environments_of_a_group_begin_alike_and_go_on_apart(make_text_env: MakeEnv, barrier: bool) -> None:
    playing = collect_with(
        make_text_env, Acting(), barrier=barrier, num_envs=6, episode_seed=lambda env, number: 10 * (env // 3) + number
    )
    episodes = playing.collect_episodes(1)
    assert [one.seed for one in episodes] == [0, 0, 0, 10, 10, 10]
    assert len({tuple(turn.action for turn in one.turns) for one in episodes}) > 2


@pytest.mark.parametrize("barrier", [True, False])
def test_turns_know_their_states_where_they_are_asked_for(make_text_env: MakeEnv, barrier: bool) -> None:
    playing = collect_with(make_text_env, Acting(), barrier=barrier, keys_states=True)
    turns = [turn for one in playing.collect_episodes(3) for turn in one.turns]
    # Of this environment, what it shows is its state; its first observation is always the same.
    assert len({one.turns[0].state_key for one in playing.collect_episodes(2)}) == 1
    assert 1 < len({turn.state_key for turn in turns}) < len(turns)
    plain = collect_with(make_text_env, Acting(), barrier=barrier)
    assert {turn.state_key for one in plain.collect_episodes(1) for turn in one.turns} == {0}


@pytest.mark.parametrize("acting", WAYS, ids=lambda acting: acting.how)
def test_without_a_barrier_the_same_episodes_are_played(make_text_env: MakeEnv, acting: Acting) -> None:
    locked = collect_with(make_text_env, acting, barrier=True, limit=4)
    free = collect_with(make_text_env, acting, barrier=False, limit=4)
    assert sorted(map(facts, free.episodes())) == sorted(map(facts, locked.episodes()))


def answer_room(turn: Turn, acting: Acting) -> int:
    """Tokens that the longest answer to a turn's prompt has."""
    longest = max(map(len, turn.candidate_ids))
    cue = len(acting.cue.encode())
    return {"text": acting.max_new_tokens, "reason": acting.max_new_tokens + cue + longest}.get(acting.how, longest)


@pytest.mark.parametrize("barrier", [True, False])
@pytest.mark.parametrize("acting", WAYS, ids=lambda acting: acting.how)
def test_episodes_that_outgrow_the_context_are_given_up(make_text_env: MakeEnv, acting: Acting, barrier: bool) -> None:
    whole = {one.seed: one for one in collect_with(make_text_env, acting, barrier=True, limit=4).episodes()}
    needs = {seed: [len(t.prompt_ids) + answer_room(t, acting) for t in one.turns] for seed, one in whole.items()}
    limit = sorted(max(one) for one in needs.values())[len(needs) // 2]

    played = list(
        collect_with(
            make_text_env, acting, barrier=barrier, limit=4, max_context_tokens=limit, gives_up=True
        ).episodes()
    )
    assert sorted(one.seed or 0 for one in played) == sorted(seed or 0 for seed in whole)
    assert 0 < sum(bool(one.given_up) for one in played) < len(played)
    for one in played:
        fitting = [need <= limit for need in needs[one.seed]]
        num_turns = len(fitting) if all(fitting) else fitting.index(False)
        assert facts(one)[2] == facts(whole[one.seed])[2][:num_turns], "up to there nothing is different"
        assert bool(one.given_up) == (num_turns < len(fitting))
        if one.given_up:
            assert one.final_prompt_ids is None
            assert re.search(rf"Expected .* of at most {limit} tokens", one.given_up)

    with pytest.raises(PromptError, match=f"of at most {limit} tokens"):
        list(collect_with(make_text_env, acting, barrier=barrier, limit=4, max_context_tokens=limit).episodes())


@pytest.mark.parametrize("barrier", [True, False])
def test_an_episode_whose_first_prompt_does_not_fit_has_no_turns(make_text_env: MakeEnv, barrier: bool) -> None:
    settings: dict[str, Any] = {"barrier": barrier, "limit": 2, "max_context_tokens": 10}
    played = list(collect_with(make_text_env, Acting(), gives_up=True, **settings).episodes())
    assert sorted(one.seed or 0 for one in played) == [0, 1, 100, 101, 200, 201]
    assert all(one.turns == () and "at most 10 tokens" in one.given_up for one in played)
    with pytest.raises(PromptError, match="at turn 0 of the episode"):
        collect_with(make_text_env, Acting(), **settings)


@pytest.mark.parametrize("barrier", [True, False])
@pytest.mark.parametrize("acting", WAYS, ids=lambda acting: acting.how)
def test_prompts_only_grow_by_what_was_said_and_observed(make_text_env: MakeEnv, acting: Acting, barrier: bool) -> None:
    decode = engine().tokenizer.decode
    num_changes = 0
    for one in collect_with(make_text_env, acting, barrier=barrier).collect(20):
        for turn, following in zip(one.turns, one.turns[1:], strict=False):
            said = turn.candidate_ids[turn.action]
            if acting.how == "text":
                said = turn.kept_ids
            if acting.how == "reason":
                said = (*turn.kept_ids, *turn.cue_ids, *said)
            begun = [*turn.prompt_ids.tolist(), *said]
            assert following.prompt_ids[: len(begun)].tolist() == begun
            assert decode(following.prompt_ids[len(begun) :]).startswith("\nObservation: at ")
            num_changes += turn.candidate_ids != following.candidate_ids
    assert num_changes > 0, "the actions change with the state"


def test_an_answer_that_cannot_be_parsed_is_a_turn_with_the_fallback(make_text_env: MakeEnv) -> None:
    acting = Acting("text", fallback="walk")
    turns = [turn for one in collect_with(make_text_env, acting, barrier=True).collect(30) for turn in one.turns]
    unparsed = [turn for turn in turns if not turn.is_parsed]
    assert 0 < len(unparsed) < len(turns)
    assert {turn.action for turn in unparsed} == {1}, "walk is the second action of every state"
    assert all(turn.sampled_ids for turn in turns)


def walk_always(answer: str, actions: Any) -> int | None:
    return list(actions).index("walk")


@pytest.mark.parametrize("barrier", [True, False])
def test_a_parser_of_ones_own_sees_the_actions_as_the_environment_wrote_them(
    make_text_env: MakeEnv, barrier: bool
) -> None:
    seen = []

    def parse(answer: str, actions: Any) -> int | None:
        seen.append((answer, tuple(actions)))
        return walk_always(answer, actions)

    trajectories = collect_with(make_text_env, Acting("text"), barrier=barrier, parse=parse).collect(6)
    assert {turn.action for one in trajectories for turn in one.turns} == {1}
    assert ("stay", "walk", "walk on, whistling") in {actions for _, actions in seen}


def test_a_parser_is_found_by_its_name_in_the_current_folder(
    make_text_env: MakeEnv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "parsers_of_mine.py").write_text(
        "def walk(answer, actions):\n    return actions.index('walk')\n\nlimit = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    playing = collect_with(make_text_env, Acting("text", parser="parsers_of_mine:walk"), barrier=True)
    assert {turn.action for one in playing.collect(6) for turn in one.turns} == {1}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("walk", r"written as module:function, found 'walk'\. For instance"),
        ("not a module:f", "written as module:function, found 'not a module:f'"),
        ("llmgym_nowhere:f", "a module that can be imported, found 'llmgym_nowhere:f': No module named"),
        ("llmgym.engine.parser:find_actoin", "found 'find_actoin', which is none. Did you mean 'find_action'"),
        ("llmgym.engine.parser:PUNCTUATION", "found 'PUNCTUATION', which is none"),
    ],
)
def test_a_parser_that_cannot_be_found_is_named(make_text_env: MakeEnv, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        collect_with(make_text_env, Acting("text", parser=name), barrier=True).collect(1)


@pytest.mark.parametrize("acting", WAYS, ids=lambda acting: acting.how)
def test_the_store_brings_back_what_it_was_given(make_text_env: MakeEnv, acting: Acting, tmp_path: Path) -> None:
    trajectories = collect_with(make_text_env, acting, barrier=True).collect(15)
    write_trajectories(tmp_path / "turns.jsonl", trajectories)
    assert [facts(one) for one in read_trajectories(tmp_path / "turns.jsonl")] == [facts(one) for one in trajectories]


@pytest.mark.parametrize("acting", WAYS, ids=lambda acting: acting.how)
def test_an_expert_speaks_as_the_learner_does(make_text_env: MakeEnv, acting: Acting) -> None:
    tokenizer = engine().tokenizer
    speaker = Speaker(tokenizer, PromptSettings(), acting, 10_000)

    def seeds() -> Iterator[int]:
        yield from range(100)

    (one,) = retell(demonstrate(make_text_env(), Expert("walker", lambda _env: lambda: 1), seeds(), 1), speaker)
    for turn in one.turns:
        assert turn.action == 1
        assert turn.policy_version == NO_VERSION, "no policy took it"
        assert turn.sampled_ids == ((*b" walk", 256) if acting.how == "text" else ())
        assert turn.cue_ids == (tuple(b"\nAction:") if acting.how == "reason" else ())
    asks_for = "Thought:\nAction" if acting.how == "reason" else "Action"
    opening = "Thought" if acting.how == "reason" else "Action"
    assert tokenizer.decode(one.turns[1].prompt_ids).endswith(
        f"Observation: at 0\n{asks_for}: walk\nObservation: at 1\n{opening}:"
    )


def test_an_error_leaves_the_collector_without_open_decisions(make_text_env: MakeEnv) -> None:
    class Failing(SlowEngine):
        def advance(self) -> list[tuple[int, Any]]:
            self._made.clear()
            raise KeyboardInterrupt

    playing = collect_with(make_text_env, Acting(), barrier=False)
    assert isinstance(playing, AsyncCollector)
    healthy, playing._engine = playing._engine, engine(Failing)
    with pytest.raises(KeyboardInterrupt):
        playing.collect(2)
    playing._engine = healthy
    assert sum(len(one.turns) for one in playing.collect(2)) == 6


def test_no_environment_is_refused() -> None:
    with pytest.raises(EnvError, match="Expected at least one environment to collect from, found none"):
        AsyncCollector(
            [], engine(), prompt=PromptSettings(), acting=Acting(), seed=0, episode_seed=lambda _env, number: number
        )


def test_behaviour_logprobs_of_thoughts_and_actions_are_kept(make_text_env: MakeEnv) -> None:
    for one in collect_with(make_text_env, Acting("reason"), barrier=True).collect(5):
        assert all(np.isfinite(turn.logprob) and turn.logprob <= 0 for turn in one.turns)
