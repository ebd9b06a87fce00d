"""Learners in several processes learn what one learns; they live and die together."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmgym.algorithms import GRPO, ILQL, PPO, BehaviourCloning
from llmgym.errors import LearnerError
from llmgym.learner import Learner, LearnerGroup, LoraSettings, NonFiniteError
from llmgym.learner.ranks.pool import RankPool
from llmgym.learner.ranks.rank import Rank, share_rows
from llmgym.learner.row import build_rows
from llmgym.rollout.batch import ReturnSettings
from llmgym.rollout.batch import make_batch as make_transitions
from llmgym.types import Batch, Engine

HERE = str(Path(__file__).parent)
sys.path.append(HERE)
import rank_questions  # noqa: E402

Make = Callable[..., Any]
ALGORITHMS = [PPO(value_coef=0.7), GRPO(credit="turn"), BehaviourCloning(1, 64, value_coef=0.5, text_coef=0.7)]


@pytest.fixture(scope="module")
def pools() -> Iterator[dict[int, RankPool]]:
    """Two and three processes, which the groups of this module take over from one another."""
    found = {num_ranks: RankPool(num_ranks, num_threads=1) for num_ranks in (2, 3)}
    yield found
    for pool in found.values():
        pool.close()


@pytest.fixture
def folder(make_model: Make, tmp_path: Path) -> str:
    make_model().save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def maker(folder: str, **settings: Any) -> Any:
    given: dict[str, Any] = {"heads": {"value": rank_questions.NoisyHead}, "max_tokens_per_microbatch": 100, **settings}
    return partial(Learner, folder, **given)


def alone(make: Any) -> Learner:
    learner: Learner = make(num_threads=1)
    return learner


def ragged(make_batch: Make, learner: Learner, num_episodes: int, seed: int = 0) -> Batch:
    """Episodes of 1 to 4 turns, whose actions were a little likelier or unlikelier when they were taken than now."""
    batch: Batch = make_batch(num_episodes, seed)
    offsets = np.random.default_rng(seed).uniform(-0.3, 0.3, len(batch.turns))
    logprobs = learner.logprobs(batch.turns) + offsets
    turns = zip(batch.turns, logprobs, strict=True)
    return replace(batch, turns=tuple(replace(turn, logprob=float(logprob)) for turn, logprob in turns))


def learned(group: LearnerGroup, batch: Batch) -> dict[str, float]:
    """Take an update, and return its metrics but for the memory that it took."""
    metrics = group.update(batch)
    assert 0.05 < metrics.pop("learners_peak_memory_gib") < 64
    return metrics


def check_gradients(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys(), "a head that is not asked has no gradient in any rank"
    scale = max(1.0, *(float(np.abs(gradient).max()) for gradient in expected.values()))
    for name, gradient in expected.items():
        np.testing.assert_allclose(found[name], gradient, rtol=0, atol=1e-6 * scale, err_msg=name)


def test_rows_are_shared_out_by_tokens_the_longest_first() -> None:
    lengths = [7, 3, 5, 4, 2]
    rows = build_rows([np.full(length, 10 + number, np.int32) for number, length in enumerate(lengths)], [()] * 5)
    assert [[row.num_tokens for row in share] for share in share_rows(rows, 2)] == [[7, 3], [5, 4, 2]]
    assert [[row.num_tokens for row in share] for share in share_rows(rows[:2], 3)] == [[7], [3], []]
    assert [row.num_tokens for row in Rank(2, 3).share(rows)] == [4, 3]


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2, alpha=2.0)], ids=["all weights", "lora"])
@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda algorithm: type(algorithm).__name__)
def test_gradients_of_1_2_and_3_ranks_are_the_same(
    algorithm: Any, lora: LoraSettings | None, pools: dict[int, RankPool], folder: str, make_batch: Make
) -> None:
    make = maker(folder, lora=lora, algorithm=algorithm)
    single = alone(make)
    if lora is not None:
        single.update(ragged(make_batch, single, 3))  # an adapter's first gradients are 0 in one of its halves
        single.save(Path(folder).parent / "moved")
        make = partial(Learner.load, Path(folder).parent / "moved", heads={"value": rank_questions.NoisyHead})
    groups = [LearnerGroup(make, pools[num_ranks]) for num_ranks in (2, 3)]
    for num_episodes in (1, 2, 9):
        question = partial(rank_questions.gradients_of, batch=ragged(make_batch, single, num_episodes))
        expected = question(single)
        assert max(np.abs(gradient).max() for gradient in expected.values()) > 1e-3
        for group in groups:
            check_gradients(group.ask(question), expected)


def test_gradients_over_weights_of_4_bits_are_the_same(
    pools: dict[int, RankPool], tiny_model: Path, make_batch: Make
) -> None:
    make = partial(Learner, str(tiny_model), lora=LoraSettings(rank=2, alpha=2.0), load_in_4bit=True, algorithm=PPO())
    single, group = alone(make), LearnerGroup(make, pools[2])
    question = partial(rank_questions.gradients_of, batch=ragged(make_batch, single, 5))
    check_gradients(group.ask(question), question(single))


def test_gradients_of_stale_turns_are_the_same(pools: dict[int, RankPool], folder: str, make_batch: Make) -> None:
    make = maker(folder, algorithm=PPO(value_coef=0.7))
    single, group = alone(make), LearnerGroup(make, pools[2])
    batch = ragged(make_batch, single, 7)
    rng = np.random.default_rng(1)
    weights = rng.uniform(0.2, 2.0, len(batch.turns)).astype(np.float32)
    proximal = single.logprobs(batch.turns) + rng.uniform(-0.1, 0.1, len(batch.turns)).astype(np.float32)
    stale = replace(batch, weights=weights, proximal_logprobs=proximal)
    expected = rank_questions.gradients_of(single, stale)
    check_gradients(group.ask(partial(rank_questions.gradients_of, batch=stale)), expected)
    plain = rank_questions.gradients_of(single, batch)
    assert max(np.abs(plain[name] - expected[name]).max() for name in plain) > 1e-3, "weights change them"


def test_updates_from_recorded_transitions_are_those_of_one(
    pools: dict[int, RankPool], folder: str, make_episode: Make, tmp_path: Path
) -> None:
    algorithm = ILQL(epochs=2, minibatch_turns=6, awac_beta=0.5, sync_every=2)
    make = partial(Learner, folder, algorithm=algorithm, learning_rate=1e-3, max_tokens_per_microbatch=100)
    single, group = alone(make), LearnerGroup(make, pools[3])
    episodes = [make_episode(seed, 1 + seed % 4, terminated=seed % 3 != 0) for seed in range(8)]
    batch = make_transitions(episodes, None, ReturnSettings(0.9, 1.0, 1.0), algorithm)
    assert batch.steps is not None
    for _ in range(2):
        assert learned(group, batch) == pytest.approx(single.update(batch), rel=1e-4, abs=1e-5)
    group.save(tmp_path / "same in all ranks")
    weights = rank_questions.parameters_of(single)
    for name, found in group.ask(rank_questions.parameters_of).items():
        np.testing.assert_allclose(found, weights[name], rtol=0, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(
        np.concatenate(group.action_logprobs(batch.turns, beta=2.0)),
        np.concatenate(single.action_logprobs(batch.turns, beta=2.0)),
        rtol=0,
        atol=1e-4,
    )


def test_ranks_that_drop_out_hold_the_same_weights(
    pools: dict[int, RankPool], folder: str, make_batch: Make, tmp_path: Path
) -> None:
    make = maker(folder, algorithm=PPO(epochs=2, minibatch_turns=6), lora=LoraSettings(rank=2, dropout=0.3))
    batch, told = ragged(make_batch, alone(make), 6), []
    for name in ("first", "second"):
        group = LearnerGroup(make, pools[2])
        told.append(learned(group, batch))
        group.save(tmp_path / name)
    assert told[0] == told[1], "what is dropped is drawn from the seed"


@pytest.mark.parametrize(
    "algorithm",
    [PPO(epochs=3, minibatch_turns=5, target_kl=1e-9), GRPO(reference_coef=0.1, minibatch_turns=6, credit="draw")],
    ids=["ppo", "grpo"],
)
def test_updates_of_several_ranks_are_those_of_one(
    algorithm: Any, pools: dict[int, RankPool], folder: str, make_batch: Make, tmp_path: Path
) -> None:
    make = maker(folder, algorithm=algorithm, learning_rate=1e-3)
    single = alone(make)
    groups = [LearnerGroup(make, pools[num_ranks]) for num_ranks in (2, 3)]
    for seed in range(3):
        batch = ragged(make_batch, single, 7, seed)
        expected = single.update(batch)
        for group in groups:
            assert learned(group, batch) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    weights = rank_questions.parameters_of(single)
    for group in groups:
        group.save(tmp_path / "same in all ranks")
        for name, found in group.ask(rank_questions.parameters_of).items():
            np.testing.assert_allclose(found, weights[name], rtol=0, atol=1e-5, err_msg=name)


def test_values_and_logprobs_are_computed_in_shares(
    pools: dict[int, RankPool], folder: str, make_episode: Make, make_batch: Make
) -> None:
    make = maker(folder)
    single, group = alone(make), LearnerGroup(make, pools[3])
    episodes = [make_episode(seed, 1 + seed % 4, terminated=seed % 2 == 0) for seed in range(7)]
    for found, expected in zip(group.values(episodes), single.values(episodes), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    review = group.review(episodes)
    np.testing.assert_allclose(np.concatenate(review.values), np.concatenate(group.values(episodes)), rtol=0, atol=1e-5)
    turns = [turn for one in episodes for turn in one.turns]
    np.testing.assert_allclose(np.concatenate(review.logprobs), single.logprobs(turns), rtol=0, atol=1e-5)
    turns = make_batch(2).turns
    np.testing.assert_allclose(group.logprobs(turns), single.logprobs(turns), rtol=0, atol=1e-5)
    assert group.max_context_tokens == single.max_context_tokens == 128


def test_a_checkpoint_is_one_of_any_number_of_ranks(
    pools: dict[int, RankPool], folder: str, make_batch: Make, tmp_path: Path
) -> None:
    make = maker(folder, algorithm=PPO(epochs=2, minibatch_turns=6))
    batch = ragged(make_batch, alone(make), 6)
    group = LearnerGroup(make, pools[2])
    group.update(batch)
    group.save(tmp_path / "saved")
    load = partial(Learner.load, tmp_path / "saved", heads={"value": rank_questions.NoisyHead})
    single, wider = alone(load), LearnerGroup(load, pools[3])
    expected = learned(group, batch)
    assert single.update(batch) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert learned(wider, batch) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_another_algorithm_and_rate_reach_all_ranks(
    pools: dict[int, RankPool], folder: str, make_batch: Make, tmp_path: Path
) -> None:
    make = maker(folder, algorithm=BehaviourCloning())
    group = LearnerGroup(make, pools[2])
    group.set_algorithm(PPO(epochs=1), learning_rate=1e-2)
    assert group.algorithm == PPO(epochs=1)
    before = group.ask(rank_questions.parameters_of)
    group.scale_learning_rate(0.0)
    assert "value_loss" in group.update(ragged(make_batch, alone(make), 4))
    group.save(tmp_path / "same in all ranks")
    moved = {name for name, value in group.ask(rank_questions.parameters_of).items() if (value != before[name]).any()}
    assert moved == {name for name in before if name.startswith("heads.")}


def test_ranks_whose_weights_differ_are_not_saved(pools: dict[int, RankPool], folder: str, tmp_path: Path) -> None:
    group = LearnerGroup(maker(folder), pools[2])
    group.ask(rank_questions.spoil)
    with pytest.raises(LearnerError, match=r"all learner ranks to hold the same weights, but those of rank 1 differ"):
        group.save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_a_step_that_cannot_be_taken_is_taken_by_no_rank(
    pools: dict[int, RankPool], folder: str, make_batch: Make, tmp_path: Path
) -> None:
    group = LearnerGroup(maker(folder, algorithm=PPO(epochs=1, minibatch_turns=1000)), pools[2])
    before, batch = group.ask(rank_questions.parameters_of), make_batch(5)
    wild = replace(batch, turns=(replace(batch.turns[0], logprob=-1e5), *batch.turns[1:]), advantages=-batch.advantages)
    with pytest.raises(LearnerError, match=r"Expected a finite (loss|gradient), got (nan|inf|norm)"):
        group.update(wild)
    for name, value in group.ask(rank_questions.parameters_of).items():
        np.testing.assert_array_equal(value, before[name])
    group.update(batch)
    group.save(tmp_path / "same in all ranks")


def test_all_ranks_skip_the_same_steps_and_tell_their_turns(
    pools: dict[int, RankPool], folder: str, make_batch: Make, tmp_path: Path
) -> None:
    make = maker(folder, algorithm=PPO(epochs=1, minibatch_turns=4), on_non_finite="skip")
    group, batch = LearnerGroup(make, pools[2]), make_batch(8)
    wild = replace(batch, turns=(replace(batch.turns[0], logprob=-1e5), *batch.turns[1:]), advantages=-batch.advantages)
    metrics = group.update(wild)
    assert metrics["steps"] > metrics["skipped_steps"] == len(group.skipped) == 1
    assert any(turn is wild.turns[0] for turn in group.skipped[0].turns), "the driver's own turns"
    assert group.skipped[0].broken
    group.save(tmp_path / "same in all ranks")
    assert group.update(batch)["skipped_steps"] == len(group.skipped) == 0
    stops = LearnerGroup(maker(folder, algorithm=PPO(epochs=1, minibatch_turns=4)), pools[2])
    with pytest.raises(NonFiniteError) as caught:
        stops.update(wild)
    assert any(turn is wild.turns[0] for turn in caught.value.turns)


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2)], ids=["all weights", "lora"])
def test_an_engine_serves_the_weights_of_rank_0(
    lora: LoraSettings | None, pools: dict[int, RankPool], reference_engine: Engine, tiny_model: Path, make_batch: Make
) -> None:
    group = LearnerGroup(
        partial(Learner, str(tiny_model), lora=lora, algorithm=PPO(epochs=1), learning_rate=1e-3), pools[2]
    )
    before = group.score(group.canary.contexts, group.canary.candidates)
    group.update(make_batch(4))
    version = 7
    assert group.publish(reference_engine, version=version)["canary_gap"] < 1e-4
    assert group.version == reference_engine.version == version
    assert group.publish(reference_engine)["canary_gap"] < 1e-4
    assert group.version == version + 1
    after = group.score(group.canary.contexts, group.canary.candidates)
    assert max(np.abs(b - a).max() for b, a in zip(before, after, strict=True)) > 1e-2
    assert group.tokenizer.decode(group.tokenizer.encode("turn left")) == "turn left"


def test_a_learner_that_ranks_cannot_make_is_refused(pools: dict[int, RankPool], folder: str) -> None:
    with pytest.raises(LearnerError, match=r"Expected what learners in processes of their own are made of .*: .*local"):
        pools[2].ask(lambda seat: 1)
    with pytest.raises(LearnerError, match=r"Expected a causal language model to learn with, but no folder"):
        pools[2].ask(partial(rank_questions.make_in_vain, folder=folder + "/none"))
