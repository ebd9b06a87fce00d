"""Turns with free tokens ("text" and "reason") against slow references: one plain forward pass a sequence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from llmgym.algorithms import PPO, BehaviourCloning
from llmgym.errors import LearnerError
from llmgym.learner import Learner
from llmgym.learner.evaluation import evaluate
from llmgym.learner.packing import build_pack
from llmgym.learner.row import FreeTokens, build_rows
from llmgym.learner.state_rows import pack_turns
from llmgym.types import Acting, Batch, TokenIds, Trajectory, Turn

EOS = 1
CUE: TokenIds = (20, 21)
CANDIDATES: tuple[TokenIds, ...] = ((5, 6), (5, 7), (5, 6, 8, 9), (10,))


def episode(how: str, *, num_turns: int = 4, seed: int = 0) -> Trajectory:
    """An episode whose prompts only grow; every second answer ends with the end of the sequence."""
    rng = np.random.default_rng(seed)
    prompt = [int(token) for token in rng.integers(2, 64, size=5)]
    turns = []
    for number in range(num_turns):
        is_ended = number % 2 == 1
        sampled = (*map(int, rng.integers(2, 64, size=1 + number)), *([EOS] if is_ended else []))
        action = int(rng.integers(len(CANDIDATES)))
        turn = Turn(
            np.array(prompt, np.int32),
            CANDIDATES,
            action,
            logprob=-1.0,
            reward=float(rng.normal()),
            terminated=False,
            truncated=False,
            policy_version=0,
            sampled_ids=sampled,
            cue_ids=CUE if how == "reason" else (),
            is_ended=is_ended,
        )
        turns.append(turn)
        said = (*turn.kept_ids, *CUE, *CANDIDATES[action]) if how == "reason" else turn.kept_ids
        prompt = [*prompt, *said, *(int(token) for token in rng.integers(2, 64, size=3))]
    return Trajectory(tuple(turns), np.array(prompt, np.int32))


def slow_logits(model: Any, ids: list[int]) -> torch.Tensor:
    return model(input_ids=torch.tensor([ids])).logits[0].float()


def slow_logprob(model: Any, turn: Turn, acting: Acting) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability and entropy of one turn, sequence by sequence."""
    prompt = turn.prompt_ids.tolist()
    logits = slow_logits(model, [*prompt, *turn.sampled_ids])[len(prompt) - 1 : -1] / acting.temperature
    logprobs = logits.log_softmax(-1)
    total = sum(logprobs[place, token] for place, token in enumerate(turn.sampled_ids))
    entropy = -(logprobs.exp() * logprobs).sum()
    if acting.how == "reason":
        context = [*prompt, *turn.kept_ids, *turn.cue_ids]
        scores = []
        for candidate in turn.candidate_ids:
            rows = slow_logits(model, [*context, *candidate])[len(context) - 1 : -1].log_softmax(-1)
            score = sum(rows[place, token] for place, token in enumerate(candidate))
            scores.append(score / len(candidate) if acting.normalize == "mean" else score)
        distribution = (torch.stack(scores) / acting.temperature).log_softmax(0)
        total = total + distribution[turn.action]
        entropy = entropy - (distribution.exp() * distribution).sum()
    return total, entropy


WAYS = [Acting("text", temperature=temperature) for temperature in (0.5, 1.0, 2.0)] + [
    Acting("reason", normalize, temperature) for normalize in ("sum", "mean") for temperature in (0.5, 1.0, 2.0)
]


@pytest.mark.parametrize("acting", WAYS, ids=lambda acting: f"{acting.how}-{acting.normalize}-{acting.temperature}")
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_packed_logprobs_and_entropies_equal_one_forward_pass_a_sequence(
    kind: str, acting: Acting, make_model: Callable[..., Any]
) -> None:
    model = make_model(kind)
    learner = Learner(model, acting=acting, eos_token_id=EOS)
    turns = [*episode(acting.how).turns, *episode(acting.how, seed=1, num_turns=3).turns]
    expected = [slow_logprob(model, turn, acting) for turn in turns]
    np.testing.assert_allclose(
        learner.logprobs(turns), [float(logprob.detach()) for logprob, _ in expected], atol=1e-4, rtol=1e-6
    )
    pack = build_pack(pack_turns(learner.policy, turns, acting, EOS))
    outputs = evaluate(learner.policy, pack, acting, torch.tensor([turn.action for turn in turns]))
    np.testing.assert_allclose(
        outputs.entropies.detach(), [float(entropy.detach()) for _, entropy in expected], atol=1e-4, rtol=1e-6
    )


@pytest.mark.parametrize("how", ["text", "reason"])
def test_gradients_equal_those_of_one_forward_pass_a_sequence(how: str, make_model: Callable[..., Any]) -> None:
    acting = Acting(how, "mean", 0.7)
    model = make_model()
    learner = Learner(model, acting=acting, eos_token_id=EOS, heads={})
    turns = episode(how).turns
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0])
    pack = build_pack(pack_turns(learner.policy, turns, acting, EOS))
    outputs = evaluate(learner.policy, pack, acting, torch.tensor([turn.action for turn in turns]))
    (weights @ outputs.logprobs).backward()
    slow = torch.stack([slow_logprob(model, turn, acting)[0] for turn in turns])
    (weights @ slow).backward()
    ours = dict(learner.policy.causal_model.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ours[name].grad, parameter.grad, atol=1e-4, rtol=1e-4)


def test_observations_and_cues_are_read_but_never_predicted() -> None:
    turns = episode("reason").turns
    free = [FreeTokens(turn.sampled_ids, (*turn.kept_ids, *turn.cue_ids)) for turn in turns]
    (row,) = build_rows([turn.prompt_ids for turn in turns], [turn.candidate_ids for turn in turns], free)
    pack = build_pack([row])
    predicted = pack.input_ids[0, pack.free_indices + 1].tolist()
    sampled = [token for turn in turns for token in turn.sampled_ids]
    # Where an answer is ended, the trunk goes on with the cue instead of the end of the sequence.
    assert [one for one, token in zip(predicted, sampled, strict=True) if token != EOS] == [
        token for token in sampled if token != EOS
    ]
    assert pack.free_ids.tolist() == sampled
    assert sampled.count(EOS) == 2


@pytest.mark.parametrize("how", ["text", "reason"])
def test_an_episode_with_free_tokens_is_one_row(how: str, make_model: Callable[..., Any]) -> None:
    trajectory = episode(how)
    learner = Learner(make_model(), acting=Acting(how), eos_token_id=EOS)
    (row,) = pack_turns(learner.policy, trajectory.turns, learner.acting, EOS)
    last = trajectory.turns[-1]
    behind = (*last.kept_ids, *CUE) if how == "reason" else last.sampled_ids[:-1]
    assert row.trunk_ids.tolist() == [*last.prompt_ids.tolist(), *behind]


def test_free_tokens_of_a_sliding_prompt_stay_with_their_own_prompt() -> None:
    prompts = [np.array(ids, np.int32) for ids in ([1, 2, 3], [2, 3, 4], [2, 3, 4, 9])]
    free = [FreeTokens((7, 8), (7, 8)), FreeTokens((9,), ()), FreeTokens((6,), ())]
    rows = build_rows(prompts, [()] * 3, free)
    assert [row.trunk_ids.tolist() for row in rows] == [[1, 2, 3, 7, 8], [2, 3, 4, 9]]
    assert rows[1].num_free.tolist() == [1, 1]
    pack = build_pack(rows)
    assert pack.free_indices.tolist() == [2, 3, 7, 8]
    assert pack.free.tolist() == [[0, 1], [2, 4], [3, 4]]


@pytest.mark.parametrize("how", ["text", "reason"])
def test_values_are_read_where_the_prompt_ends(how: str, make_model: Callable[..., Any]) -> None:
    model = make_model()
    learner = Learner(model, acting=Acting(how), heads={"value": _SumOfHidden}, eos_token_id=EOS)
    trajectory = episode(how)
    pack = build_pack(pack_turns(learner.policy, trajectory.turns, learner.acting, EOS))
    outputs = evaluate(learner.policy, pack, learner.acting, torch.zeros(4, dtype=torch.int64))
    for turn, value in zip(trajectory.turns, outputs.heads["value"].detach(), strict=True):
        hidden = model.base_model(input_ids=torch.tensor([turn.prompt_ids.tolist()])).last_hidden_state
        assert float(value) == pytest.approx(float(hidden[0, -1].detach().sum()), abs=1e-4)
    np.testing.assert_allclose(learner.values([trajectory])[0][:-1], outputs.heads["value"].detach(), atol=1e-5)


class _SumOfHidden(torch.nn.Module):
    def __init__(self, hidden_size: int) -> None:
        super().__init__()

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states.sum(-1)


@pytest.mark.parametrize("how", ["text", "reason"])
def test_ppo_starts_at_ratio_one_and_moves_towards_the_good_answer(how: str, make_model: Callable[..., Any]) -> None:
    learner = Learner(
        make_model(),
        acting=Acting(how, temperature=0.8),
        algorithm=PPO(epochs=1, minibatch_turns=64, entropy_coef=0.0, normalize_advantages=False, value_coef=0.0),
        learning_rate=1e-3,
        eos_token_id=EOS,
    )
    turns = episode(how).turns
    before = learner.logprobs(turns)
    turns = tuple(replace(turn, logprob=float(logprob)) for turn, logprob in zip(turns, before, strict=True))
    advantages = np.array([1.0, 0.0, 0.0, 0.0], np.float32)
    batch = Batch(turns, advantages, advantages, np.zeros(4, np.float32))
    metrics = learner.update(batch)
    assert metrics["behaviour_gap"] < 1e-5
    assert metrics["approx_kl"] == pytest.approx(0.0, abs=1e-6)
    assert learner.logprobs(turns)[0] > before[0]


@pytest.mark.parametrize("how", ["text", "reason"])
def test_cloning_makes_answers_likely(how: str, make_model: Callable[..., Any]) -> None:
    algorithm = BehaviourCloning(epochs=30, value_coef=0.5)
    learner = Learner(make_model(), acting=Acting(how), algorithm=algorithm, learning_rate=3e-3, eos_token_id=EOS)
    turns = episode(how).turns
    before = learner.logprobs(turns)
    zeros = np.zeros(4, np.float32)
    metrics = learner.update(Batch(turns, zeros, zeros, zeros))
    assert (learner.logprobs(turns) > before + 1).all()
    assert ("accuracy" in metrics) == (how == "reason")


def test_reason_without_a_thought_is_the_choice_behind_the_cue(make_model: Callable[..., Any]) -> None:
    model, acting = make_model(), Acting("reason", temperature=0.5)
    turn = replace(episode("reason").turns[0], sampled_ids=(), is_ended=False)
    learner = Learner(model, acting=acting, eos_token_id=EOS)
    behind = Learner(model, acting=replace(acting, how="score"))
    prompt_ids = np.array([*turn.prompt_ids.tolist(), *CUE], np.int32)
    same = replace(turn, prompt_ids=prompt_ids, cue_ids=())
    np.testing.assert_allclose(learner.logprobs([turn]), behind.logprobs([same]), atol=1e-5)


def test_action_logprobs_are_given_the_thought_and_refused_for_text(make_model: Callable[..., Any]) -> None:
    learner = Learner(make_model(), acting=Acting("reason"), eos_token_id=EOS)
    for table in learner.action_logprobs(episode("reason").turns):
        assert np.exp(table).sum() == pytest.approx(1.0, abs=1e-5)
    writer = Learner(make_model(), acting=Acting("text"), eos_token_id=EOS)
    with pytest.raises(LearnerError, match=r"draws among actions, got how='text'.*Use Learner\.logprobs"):
        writer.action_logprobs(episode("text").turns)


def test_turns_taken_in_another_way_are_refused(make_model: Callable[..., Any], make_turn: Callable[..., Turn]) -> None:
    scorer = Learner(make_model(), acting=Acting("score"))
    with pytest.raises(LearnerError, match="turns without free tokens for how='score', but turn 0 has 1"):
        scorer.logprobs(episode("text").turns)
    writer = Learner(make_model(), acting=Acting("text"))
    with pytest.raises(LearnerError, match="the tokens of their answers for how='text', but turn 0 has none"):
        writer.logprobs([make_turn([3, 4])])


def test_a_sampled_token_outside_of_the_vocabulary_is_refused(make_model: Callable[..., Any]) -> None:
    turn = replace(episode("text").turns[0], sampled_ids=(99,))
    with pytest.raises(LearnerError, match="Expected token ids from 0 to 63, got 99"):
        Learner(make_model(), acting=Acting("text")).logprobs([turn])
