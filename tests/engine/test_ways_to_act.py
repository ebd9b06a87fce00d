"""The four ways to act on the real engine: what was sampled, how likely it was, and what the learner makes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from llmgym.engine import load_engine
from llmgym.engine.tokenizer import load_tokenizer
from llmgym.errors import EngineError, PromptError
from llmgym.learner import Learner
from llmgym.learner.lora import LoraSettings
from llmgym.rollout.async_collector import AsyncCollector
from llmgym.rollout.collector import Collector
from llmgym.text import PromptSettings
from llmgym.types import Acting, Choice, Engine, Normalize, Trajectory, Turn

MakeEnv = Callable[[], gym.Env[Any, Any]]
TOLERANCE = 1e-4
ACTIONS = [" turn left", " turn right", " go forward", " pick up", " drop", " toggle"]
WAYS: tuple[Acting, ...] = (Acting("score"), Acting("constrained"), Acting("text"), Acting("reason"))
SHORT: dict[str, Any] = {"max_new_tokens": 6, "stop": ("\n", "ball"), "fallback": "walk"}


@pytest.fixture(scope="module")
def learner(tiny_model: Path, adapter_engine: Engine) -> Learner:
    """A learner whose adapter changes every log-probability, published to the engine."""
    learner = Learner(str(tiny_model), lora=LoraSettings(rank=4), num_threads=1)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for _, weight in learner.policy.model_parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.15)
    base = adapter_engine.score(["You see"], [ACTIONS], adapter="base")[0]
    learner.publish(adapter_engine, version=adapter_engine.version + 1)
    assert np.abs(adapter_engine.score(["You see"], [ACTIONS])[0] - base).max() > 0.1, "the adapter is not trivial"
    return learner


def collect(
    make: MakeEnv, engine: Engine, acting: Acting, *, num_steps: int, barrier: bool = True, history: str = "append"
) -> list[Trajectory]:
    settings: dict[str, Any] = {
        "prompt": PromptSettings(history=history, num_observations=2),
        "acting": acting,
        "seed": 11,
        "episode_seed": lambda env_index, number: 100 * env_index + number,
    }
    if barrier:
        venv = SyncVectorEnv([make] * 3, autoreset_mode=AutoresetMode.DISABLED)
        return Collector(venv, engine, **settings).collect(num_steps)
    return AsyncCollector([make() for _ in range(3)], engine, **settings).collect(num_steps)


def turns_of(trajectories: Sequence[Trajectory]) -> list[Turn]:
    return [turn for trajectory in trajectories for turn in trajectory.turns]


def settings() -> list[Acting]:
    """Each way with every setting that changes its distribution."""
    cases = []
    for temperature in (0.5, 1.0, 2.0):
        for ends in (False, True):
            normalizations: tuple[Normalize, ...] = ("sum", "mean")
            for normalize in normalizations:
                cases += [Acting(how, normalize, temperature, ends, **SHORT) for how in ("score", "reason")]
            cases.append(Acting("constrained", "sum", temperature, ends))
        cases.append(Acting("text", "sum", temperature, **SHORT))
    return cases


def name_of(acting: Acting) -> str:
    return f"{acting.how}-{acting.normalize}-{acting.temperature}{'-ends' if acting.ends_candidates else ''}"


@pytest.mark.parametrize("acting", settings(), ids=name_of)
def test_the_learner_recomputes_the_behaviour_logprob_from_the_turn_alone(
    learner: Learner, adapter_engine: Engine, make_text_env: MakeEnv, acting: Acting
) -> None:
    turns = turns_of(collect(make_text_env, adapter_engine, acting, num_steps=5))
    learner.acting = acting
    np.testing.assert_allclose(learner.logprobs(turns), [turn.logprob for turn in turns], atol=TOLERANCE)
    assert len({turn.candidate_ids for turn in turns}) > 1, "the actions change with the state"
    assert {bool(turn.sampled_ids) for turn in turns} == {acting.how in ("text", "reason")}
    assert {turn.policy_version for turn in turns} == {adapter_engine.version}


@pytest.mark.parametrize("acting", [replace(way, **SHORT) for way in WAYS], ids=name_of)
def test_a_sliding_window_is_recomputed_too(
    learner: Learner, adapter_engine: Engine, make_text_env: MakeEnv, acting: Acting
) -> None:
    turns = turns_of(collect(make_text_env, adapter_engine, acting, num_steps=5, history="window"))
    learner.acting = acting
    np.testing.assert_allclose(learner.logprobs(turns), [turn.logprob for turn in turns], atol=TOLERANCE)


@pytest.mark.parametrize("acting", [replace(way, **SHORT) for way in WAYS], ids=name_of)
def test_without_a_barrier_the_same_is_collected(
    adapter_engine: Engine, make_text_env: MakeEnv, acting: Acting
) -> None:
    locked = collect(make_text_env, adapter_engine, acting, num_steps=6)
    free = collect(make_text_env, adapter_engine, acting, num_steps=6, barrier=False)
    assert [(one.env_index, one.seed) for one in free] == [(one.env_index, one.seed) for one in locked]
    for one, other in zip(turns_of(free), turns_of(locked), strict=True):
        assert one.prompt_ids.tolist() == other.prompt_ids.tolist()
        assert (one.action, one.sampled_ids, one.reward) == (other.action, other.sampled_ids, other.reward)
        assert one.logprob == pytest.approx(other.logprob, abs=TOLERANCE)


def together_and_alone(
    engine: Engine, contexts: list[str], acting: Acting, seeds: list[int]
) -> list[tuple[Choice, Choice]]:
    """What is chosen for every context in one batch, and in a batch of its own."""
    together = engine.act(contexts, [ACTIONS] * len(contexts), acting, seeds)
    return [
        (one, engine.act([context], [ACTIONS], acting, [seed])[0])
        for one, context, seed in zip(together, contexts, seeds, strict=True)
    ]


def test_answers_do_not_depend_on_where_a_prompt_was_cut_in_two(vllm_engine: Engine) -> None:
    acting = Acting("text", max_new_tokens=4)
    contexts = [f"step {number} " + "You see a red ball " * 50 for number in range(8)]
    lengths = [len(vllm_engine.tokenizer.encode(context)) for context in contexts]
    assert sum(lengths) > 2048, "more than fits into a step of the engine: one is read in two"
    seeds = list(range(8))
    for one, other in together_and_alone(vllm_engine, contexts, acting, seeds):
        assert (one.text, one.sampled_ids) == (other.text, other.sampled_ids)
        assert one.logprob == pytest.approx(other.logprob, abs=TOLERANCE)


@pytest.mark.parametrize(
    "acting", [replace(way, normalize="mean", temperature=2.0, **SHORT) for way in WAYS], ids=name_of
)
def test_same_seed_same_choice_whatever_else_is_in_the_batch(vllm_engine: Engine, acting: Acting) -> None:
    contexts = ["You see a red ball", "You see", "a ball " * 20] * 4
    seeds = list(range(12))
    chosen = together_and_alone(vllm_engine, contexts, acting, seeds)
    for one, other in chosen:
        assert (one.index, one.sampled_ids) == (other.index, other.sampled_ids)
        assert one.logprob == pytest.approx(other.logprob, abs=TOLERANCE)
    assert len({(one.index, one.sampled_ids) for one, _ in chosen}) > 1


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model).eval()


def next_logits(model: Any, ids: Sequence[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.tensor([list(ids)])).logits[0].double()


def path_logprob(model: Any, context: Sequence[int], path: Sequence[int], temperature: float = 1.0) -> float:
    """Log-probability of a path behind a context, from one plain forward pass."""
    rows = (next_logits(model, [*context, *path]) / temperature).log_softmax(-1)
    return sum(rows[len(context) - 1 + place, token].item() for place, token in enumerate(path))


@pytest.mark.parametrize("normalize", ["sum", "mean"])
def test_reason_is_thought_times_choice_by_brute_force(vllm_engine: Engine, model: Any, normalize: Normalize) -> None:
    acting = Acting("reason", normalize, 0.7, max_new_tokens=5, stop=(), cue=" so I")
    choices = vllm_engine.act(["You see a red ball"] * 6, [ACTIONS] * 6, acting, seed=2)
    encode = vllm_engine.tokenizer.encode
    context, cue = encode("You see a red ball", add_special_tokens=False), encode(" so I", add_special_tokens=False)
    for choice in choices:
        thought = path_logprob(model, context, choice.sampled_ids, 0.7)
        behind = [*context, *choice.kept_ids, *cue]
        ids = [encode(action, add_special_tokens=False) for action in ACTIONS]
        scores = np.array([path_logprob(model, behind, one) for one in ids])
        if normalize == "mean":
            scores /= [len(one) for one in ids]
        expected = torch.tensor(scores / 0.7).log_softmax(0).numpy()
        np.testing.assert_allclose(choice.logprobs, expected, atol=TOLERANCE)
        assert choice.logprob == pytest.approx(thought + expected[choice.index], abs=TOLERANCE)
        assert choice.cue_ids == tuple(cue)
    assert len({choice.sampled_ids for choice in choices}) > 1


def test_the_end_of_the_sequence_counts_and_is_not_read_again(vllm_engine: Engine, model: Any) -> None:
    eos = vllm_engine.tokenizer.eos_token_id
    context = vllm_engine.tokenizer.encode("You see", add_special_tokens=False)
    acting = Acting("reason", temperature=2.0, max_new_tokens=100, stop=())
    choices = vllm_engine.act([context] * 40, [ACTIONS] * 40, acting, seed=0)
    ended = [choice for choice in choices if choice.is_ended]
    assert ended, "among so many thoughts some end by themselves"
    for choice in choices:
        assert choice.is_ended == (choice.sampled_ids[-1] == eos)
        assert eos not in choice.kept_ids
    choice = ended[0]
    behind = [*context, *choice.sampled_ids[:-1], *choice.cue_ids]
    ids = [vllm_engine.tokenizer.encode(action, add_special_tokens=False) for action in ACTIONS]
    expected = torch.tensor([path_logprob(model, behind, one) / 2.0 for one in ids]).log_softmax(0)
    np.testing.assert_allclose(choice.logprobs, expected, atol=TOLERANCE)
    thought = path_logprob(model, context, choice.sampled_ids, 2.0)
    assert choice.logprob == pytest.approx(thought + expected[choice.index].item(), abs=2 * TOLERANCE)


def test_joint_tokenization_scores_the_token_that_spans_the_border(vllm_engine: Engine, model: Any) -> None:
    def encode(text: str) -> list[int]:
        return vllm_engine.tokenizer.encode(text, add_special_tokens=False)

    # By hand: "turn" is 274, " left" 275, " le" 269, "ft" 262, "a" 65, "p" 80. Behind "turn le", "ft" makes " left" one
    # token that spans the border, so that both candidates are scored behind "turn".
    assert (encode("turn le"), encode("ft"), encode("ap")) == ([274, 269], [262], [65, 80])
    assert (encode("turn left"), encode("turn leap")) == ([274, 275], [274, 269, 65, 80])
    joint = vllm_engine.score(["turn le"], [["ft", "ap"]], tokenization="joint")[0]
    expected = [path_logprob(model, [274], [275]), path_logprob(model, [274], [269, 65, 80])]
    np.testing.assert_allclose(joint, expected, atol=TOLERANCE)
    separate = vllm_engine.score(["turn le"], [["ft", "ap"]])[0]
    expected = [path_logprob(model, [274, 269], [262]), path_logprob(model, [274, 269], [65, 80])]
    np.testing.assert_allclose(separate, expected, atol=TOLERANCE)
    assert np.abs(joint - separate).max() > 0.1
    with pytest.raises(EngineError, match="Expected texts to tokenize jointly, but context 0"):
        vllm_engine.score([[274, 269]], [["ft"]], tokenization="joint")


def test_a_parser_that_returns_no_index_is_named(vllm_engine: Engine) -> None:
    acting = Acting("text", max_new_tokens=3)
    with pytest.raises(EngineError, match="Expected the parser to return None or an index from 0 to 5, found 6"):
        vllm_engine.act(["You see"], [ACTIONS], acting, seed=0, parse=lambda answer, actions: 6)
    with pytest.raises(ZeroDivisionError):
        vllm_engine.act(["You see"], [ACTIONS], acting, seed=0, parse=lambda answer, actions: 1 // 0)
    assert vllm_engine.act(["You see"], [ACTIONS], acting, seed=0), "the engine goes on"


@pytest.mark.parametrize(("fallback", "index"), [("", 0), (" drop", 4), ("no such action", 0)])
def test_an_empty_answer_takes_the_fallback(vllm_engine: Engine, fallback: str, index: int) -> None:
    letters = tuple("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ")
    acting = Acting("text", max_new_tokens=1, stop=letters, fallback=fallback)
    choices = vllm_engine.act(["You see"] * 10, [ACTIONS] * 10, acting, seed=0)
    empty = [choice for choice in choices if choice.text == ""]
    assert empty
    for choice in empty:
        assert (choice.index, choice.is_parsed, len(choice.sampled_ids)) == (index, False, 1)
        assert np.isnan(choice.logprobs).all()
        assert np.isfinite(choice.logprob)


def test_an_answer_that_names_an_action_takes_it(vllm_engine: Engine) -> None:
    (written,) = vllm_engine.generate(["You see"], 4, temperature=0.0)[0]
    acting = Acting("text", temperature=0.0, max_new_tokens=4, stop=())
    options = [["nothing of the kind", written.text]]
    (choice,) = vllm_engine.act(["You see"], options, acting, parse=lambda answer, actions: actions.index(answer))
    assert (choice.index, choice.is_parsed, choice.logprob) == (1, True, 0.0)
    assert choice.sampled_ids == written.token_ids


@pytest.mark.parametrize("way", WAYS, ids=name_of)
def test_what_looks_like_a_special_token_is_text(vllm_engine: Engine, tiny_model: Path, way: Acting) -> None:
    eos = vllm_engine.tokenizer.eos_token
    reader = load_tokenizer(str(tiny_model), reads_special_tokens=True)
    assert len(reader.encode(eos, add_special_tokens=False)) == 1
    acting = replace(way, cue=f"{eos} so", **SHORT)
    (choice,) = vllm_engine.act([f"You see {eos}"], [[f" say {eos}", " go"]], acting, seed=0)
    read = (*choice.candidate_ids[0], *choice.candidate_ids[1], *choice.cue_ids)
    assert vllm_engine.tokenizer.eos_token_id not in read
    assert vllm_engine.tokenizer.decode(choice.candidate_ids[0]) == f" say {eos}"


@pytest.mark.parametrize("how", ["score", "constrained"])
def test_ten_thousand_candidates(vllm_engine: Engine, model: Any, how: str) -> None:
    actions = [f" go {number:04d}." for number in range(10_000)]
    context = vllm_engine.tokenizer.encode("You see", add_special_tokens=False)
    (choice,) = vllm_engine.act([context], [actions], Acting(how), seed=4)
    assert choice.logprob == pytest.approx(float(choice.logprobs[choice.index]))
    if how == "score":
        assert np.exp(choice.logprobs.astype(np.float64)).sum() == pytest.approx(1.0, abs=1e-4)
        difference = path_logprob(model, context, choice.candidate_ids[7]) - path_logprob(
            model, context, choice.candidate_ids[9876]
        )
        assert choice.logprobs[7] - choice.logprobs[9876] == pytest.approx(difference, abs=2 * TOLERANCE)


def test_duplicates_share_their_score_and_constrained_refuses_them(vllm_engine: Engine) -> None:
    for how in ("score", "reason"):
        (choice,) = vllm_engine.act(["You see"], [[" go", " drop", " go"]], Acting(how, **SHORT), seed=0)
        assert choice.logprobs[0] == choice.logprobs[2]
    (choice,) = vllm_engine.act(["You see"], [[" go"] * 2], Acting("text", **SHORT), seed=0)
    assert choice.index == 0
    with pytest.raises(EngineError, match="Expected distinct candidates to sample token by token"):
        vllm_engine.act(["You see"], [[" go", " drop", " go"]], Acting("constrained"), seed=0)


@pytest.mark.parametrize("way", WAYS, ids=name_of)
def test_any_script_can_be_read_and_chosen(vllm_engine: Engine, way: Acting) -> None:
    actions = [" tourner à gauche", " 左に曲がる", " 🐈‍⬛ hüpft", " иди вперёд"]
    (choice,) = vllm_engine.act(["Tu vois une clé 🔑 — да"], [actions], replace(way, **SHORT), seed=0)
    for ids, action in zip(choice.candidate_ids, actions, strict=True):
        assert vllm_engine.tokenizer.decode(ids) == action
    assert np.isfinite(choice.logprob)


@pytest.mark.parametrize(
    ("way", "num_answer_tokens"),
    [
        (Acting("score"), 2),
        (Acting("score", ends_candidates=True), 3),
        (Acting("constrained"), 2),
        (Acting("text", max_new_tokens=7), 7),
        (Acting("reason", max_new_tokens=7, cue="a"), 10),
    ],
    ids=["score", "score-ends", "constrained", "text", "reason"],
)
def test_a_context_one_token_too_long_is_refused(vllm_engine: Engine, way: Acting, num_answer_tokens: int) -> None:
    longest = 512 - num_answer_tokens
    options = [[[5, 6], [7]]]
    (choice,) = vllm_engine.act([[5] * longest], options, way, seed=0)
    assert np.isfinite(choice.logprob)
    message = f"at most 512 tokens, but context 0 has {longest + 1} and its answer up to {num_answer_tokens}"
    with pytest.raises(PromptError, match=message):
        vllm_engine.act([[5] * (longest + 1)], options, way, seed=0)
    with pytest.raises(PromptError, match=message):
        vllm_engine.start([5] * (longest + 1), options[0], way, seed=0)


def test_a_closed_engine_answers_nothing(tiny_model: Path) -> None:
    engine = load_engine(str(tiny_model), backend="transformers")
    engine.close()
    engine.close()
    calls: list[Callable[[], Any]] = [
        lambda: engine.score(["a"], [[" b"]]),
        lambda: engine.generate(["a"], 1),
        lambda: engine.start("a", [" b"], Acting()),
        engine.advance,
        *(lambda way=way: engine.act(["a"], [[" b"]], way) for way in WAYS),
    ]
    for call in calls:
        with pytest.raises(EngineError, match="Expected an open engine, but this one was closed"):
            call()


def test_started_decisions_of_all_ways_are_handed_out_once(vllm_engine: Engine) -> None:
    started: dict[int, tuple[Acting, int]] = {}
    for seed in range(3):
        for way in WAYS:
            acting = replace(way, **SHORT)
            started[vllm_engine.start("You see a", ACTIONS, acting, seed)] = (acting, seed)
    made: list[tuple[int, Choice]] = []
    while len(made) < len(started):
        made += vllm_engine.advance()
    assert vllm_engine.advance() == []
    assert sorted(ticket for ticket, _ in made) == sorted(started)
    for ticket, choice in made:
        acting, seed = started[ticket]
        (alone,) = vllm_engine.act(["You see a"], [ACTIONS], acting, [seed])
        assert (choice.index, choice.sampled_ids) == (alone.index, alone.sampled_ids)


def test_an_answer_reads_the_same_whether_or_not_a_stop_text_is_looked_for(vllm_engine: Engine) -> None:
    acting = Acting("text", temperature=2.0, max_new_tokens=60, stop=())
    looked_for = replace(acting, stop=("a text that never comes",))
    plain = vllm_engine.act(["You see"] * 20, [ACTIONS] * 20, acting, seed=1)
    watched = vllm_engine.act(["You see"] * 20, [ACTIONS] * 20, looked_for, seed=1)
    for one, other in zip(plain, watched, strict=True):
        assert (one.sampled_ids, one.is_ended) == (other.sampled_ids, other.is_ended)
        # Bytes that are no whole character show as such only where all is decoded at once.
        assert one.text.rstrip("\ufffd") == other.text.rstrip("\ufffd")
    assert {one.is_ended for one in plain} == {True, False}
