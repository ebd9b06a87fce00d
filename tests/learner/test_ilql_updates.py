"""ILQL in a learner: what follows a turn, target heads, guided actions, and checkpoints."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from llmgym.algorithms import ILQL, BehaviourCloning, ReturnSettings
from llmgym.errors import LearnerError
from llmgym.learner import Learner, LoraSettings, ValueHead, heads_for
from llmgym.learner.gradient import Gradients
from llmgym.learner.inference import infer_next_values
from llmgym.learner.minibatch import check_batch, open_ledger
from llmgym.learner.state_rows import pack_turns
from llmgym.learner.target_heads import TargetHead
from llmgym.learner.update import Update, run_update
from llmgym.rollout.batch import make_batch
from llmgym.types import Acting, Batch, Steps, Trajectory

Make = Callable[..., Any]
DEVICE = torch.device("cpu")


def offline_batch(episodes: list[Trajectory], *, gamma: float = 0.5, reward_scale: float = 1.0) -> Batch:
    return make_batch(episodes, None, ReturnSettings(gamma, 1.0, reward_scale), ILQL())


def make_learner(model: Any, algorithm: ILQL, **settings: Any) -> Learner:
    """Make a learner whose heads say something from the start."""
    learner = Learner(model, heads=heads_for(algorithm), algorithm=BehaviourCloning(), **settings)
    generator = torch.Generator().manual_seed(1)
    for head in learner.policy.heads.values():
        assert isinstance(head, ValueHead)
        nn.init.normal_(head.outer.weight, generator=generator)
    learner.set_algorithm(algorithm)
    return learner


def weights_of(learner: Learner, head: str) -> list[Tensor]:
    module = learner.policy.heads[head]
    module = module.head if isinstance(module, TargetHead) else module
    return [value.detach().clone() for value in module.state_dict().values()]


def test_what_followed_every_turn_is_noted_with_the_batch(make_episode: Make) -> None:
    ended, cut = make_episode(0, 3), make_episode(1, 2, terminated=False)
    batch = offline_batch([ended, cut], reward_scale=2.0)
    assert batch.steps is not None
    np.testing.assert_allclose(batch.steps.rewards, [2 * turn.reward for turn in batch.turns], rtol=1e-6)
    prompts = [turn.prompt_ids for turn in batch.turns]
    expected = [prompts[1], prompts[2], None, prompts[4], cut.final_prompt_ids]
    assert all(a is b for a, b in zip(batch.steps.next_prompts, expected, strict=True))
    followed = open_ledger(batch, "turn", DEVICE).targets.transitions
    assert followed is not None
    assert followed.discounts.tolist() == [0.5, 0.5, 0.0, 0.5, 0.5]
    assert followed.known_mask.tolist() == [True] * 5


def test_an_end_that_nobody_saw_is_left_out_of_the_td_loss(make_episode: Make) -> None:
    cut = replace(make_episode(1, 2, terminated=False), final_prompt_ids=None)
    followed = open_ledger(offline_batch([cut]), "turn", DEVICE).targets.transitions
    assert followed is not None
    assert followed.discounts.tolist() == [0.5, 0.0]
    assert followed.known_mask.tolist() == [True, False]


def test_values_of_the_states_after_are_those_of_the_learner_now(make_model: Make, make_episode: Make) -> None:
    learner = make_learner(make_model(), ILQL())
    episodes = [make_episode(0, 3), make_episode(1, 2, terminated=False)]
    batch = offline_batch(episodes)
    assert batch.steps is not None
    values = learner.values(episodes)
    found = infer_next_values(learner.policy, batch.steps.next_prompts, "value", 10**6)
    np.testing.assert_allclose(found, np.concatenate([value[1:] for value in values]), atol=1e-5)
    assert found[2] == 0.0
    assert values[1][-1] != 0.0, "an episode that was cut off goes on"


def gradients(learner: Learner, batch: Batch, max_tokens: int) -> tuple[list[Tensor], dict[str, float]]:
    before = [parameter.detach().clone() for parameter in learner.policy.parameters()]
    learned = [parameter for parameter in learner.policy.parameters() if parameter.requires_grad]
    update = Update(learner.algorithm, learner.acting, max_tokens, None)
    rows = pack_turns(learner.policy, batch.turns, learner.acting, None)
    optimizer = torch.optim.SGD(learned, lr=1.0)
    metrics = run_update(Gradients(learner.policy), optimizer, rows, batch, update=update, rng=np.random.default_rng(0))
    return [old - new for old, new in zip(before, learner.policy.parameters(), strict=True)], metrics


def test_parts_of_a_minibatch_give_the_gradient_of_the_whole(make_model: Make, make_episode: Make) -> None:
    batch = offline_batch([make_episode(number, 1 + number % 4, terminated=number != 2) for number in range(6)])
    algorithm = ILQL(minibatch_turns=1000, awac_beta=0.5, sync_every=10)
    together, metrics = gradients(make_learner(make_model(), algorithm), batch, 10**6)
    apart, metrics_apart = gradients(make_learner(make_model(), algorithm), batch, 1)
    # Differences of large Qs and Vs: processors differ in how they round them, by up to 4e-6 of the gradient so far.
    whole = torch.cat([gradient.detach().flatten() for gradient in together]).double()
    summed = torch.cat([gradient.detach().flatten() for gradient in apart]).double()
    assert float((whole - summed).norm() / whole.norm()) < 1e-5
    assert metrics_apart == pytest.approx(metrics, rel=1e-4, abs=1e-5)


def test_prompts_that_slide_learn_the_same_as_prompts_that_grow(make_model: Make, make_turn: Make) -> None:
    """The next turn of a window is in another row, and perhaps in another minibatch."""
    learner = make_learner(make_model(), ILQL(cql_scale=0, awac_scale=0, minibatch_turns=1000))
    turns = (make_turn([3, 4, 5]), make_turn([4, 5, 6], reward=1.0, terminated=True))
    batch = offline_batch([Trajectory(turns, None)])
    (values,) = learner.values([Trajectory(turns, None)])
    qs = [head for name, head in learner.policy.heads.items() if name in ("q1", "q2")]
    prompts = [[3, 4, 5], [4, 5, 6]]
    expected = 0.0
    for prompt, aim in zip(prompts, (0.5 * values[1], 1.0), strict=True):
        ids = torch.tensor([[*prompt, *turns[0].candidate_ids[0]]])
        hidden = make_model()(ids, output_hidden_states=True).hidden_states[-1][:, -1]
        expected += sum(float((head(hidden) - aim).square().detach()) for head in qs) / 2
    assert learner.update(batch)["td_loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("sync_every", [1, 3, 4, 7])
def test_targets_follow_after_every_so_many_steps(sync_every: int, make_model: Make, make_episode: Make) -> None:
    learner = make_learner(make_model(), ILQL(alpha=1.0, sync_every=sync_every, minibatch_turns=1000))
    batch = offline_batch([make_episode(number) for number in range(2)])
    for step in range(1, 7):
        before = weights_of(learner, "target_q1")
        assert learner.update(batch)["steps"] == 1
        follows = step % sync_every == 0
        now, followed = weights_of(learner, "target_q1"), weights_of(learner, "q1")
        assert all(torch.equal(one, two) for one, two in zip(now, followed if follows else before, strict=True))
        assert not torch.equal(now[2], before[2]) if follows else True, "the head moves with every step"
    target = learner.policy.heads["target_q1"]
    assert isinstance(target, TargetHead)
    assert int(target.num_steps) == 6


def test_the_number_of_syncs_is_steps_over_k(make_model: Make) -> None:
    head = ValueHead(8)
    target = TargetHead(head)
    with torch.no_grad():
        head.outer.bias.fill_(1.0)
    told = []
    for _ in range(11):
        target.follow(head, alpha=0.5, sync_every=3)
        assert isinstance(target.head, ValueHead)
        told.append(float(target.head.outer.bias.detach()))
    assert told == [0, 0, 0.5, 0.5, 0.5, 0.75, 0.75, 0.75, 0.875, 0.875, 0.875]
    assert len(set(told)) - 1 == 11 // 3


def test_targets_are_not_learned_and_are_those_of_the_algorithm(make_model: Make) -> None:
    learner = make_learner(make_model(), ILQL())
    assert list(learner.policy.heads) == ["value", "q1", "q2", "target_q1", "target_q2"]
    assert not any(value.requires_grad for value in learner.policy.heads["target_q1"].parameters())
    for own, other in zip(weights_of(learner, "target_q2"), weights_of(learner, "q2"), strict=True):
        assert torch.equal(own, other)
    learner.set_algorithm(BehaviourCloning())
    assert list(learner.policy.heads) == ["value", "q1", "q2"]


def test_a_learner_has_the_heads_of_its_algorithm(make_model: Make) -> None:
    assert list(Learner(make_model(), algorithm=ILQL(two_qs=False)).policy.heads) == ["value", "q1", "target_q1"]
    with pytest.raises(LearnerError, match=r"Expected a head 'q1' and none called 'target_q1', .* found value\. Pass"):
        Learner(make_model(), heads={"value": ValueHead}, algorithm=ILQL())


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2)])
def test_a_loaded_learner_goes_on_to_the_same_numbers(
    lora: LoraSettings | None, make_model: Make, make_episode: Make, tmp_path: Path
) -> None:
    algorithm = ILQL(alpha=0.5, sync_every=2, minibatch_turns=1000)
    learner = make_learner(make_model(), algorithm, lora=lora, learning_rate=1e-2)
    batch = offline_batch([make_episode(number) for number in range(3)])
    learner.update(batch)
    learner.save(tmp_path / "checkpoint")
    loaded = Learner.load(tmp_path / "checkpoint")
    for _ in range(2):
        assert loaded.update(batch) == learner.update(batch)
    for first, second in zip(weights_of(learner, "target_q1"), weights_of(loaded, "target_q1"), strict=True):
        assert torch.equal(first, second)
    loaded.set_algorithm(algorithm)
    assert loaded.update(batch) == learner.update(batch), "where nothing changes, targets stay as they are"


@pytest.mark.parametrize("acting", [Acting(temperature=0.7), Acting("constrained")])
def test_beta_0_is_exactly_the_policy_and_more_pulls_to_what_is_worth_more(
    acting: Acting, make_model: Make, make_episode: Make
) -> None:
    learner = make_learner(make_model(), ILQL(), acting=acting)
    plain = Learner(make_model(), heads={}, acting=acting)
    turns = make_episode(0).turns
    alone = learner.action_logprobs(turns)
    for one, two in zip(learner.action_logprobs(turns, beta=0.0), alone, strict=True):
        assert np.array_equal(one, two)
    for one, two in zip(alone, plain.action_logprobs(turns), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)
    for turn, one, two in zip(turns, alone, learner.action_logprobs(turns, beta=3.0), strict=True):
        pulls = []
        for number, candidate in enumerate(turn.candidate_ids):
            ends = (1,) if acting.how == "constrained" and number == 0 else ()  # (5, 6) begins (5, 6, 8, 9)
            ids = torch.tensor([[*turn.prompt_ids.tolist(), *candidate, *ends]])
            hidden = make_model()(ids, output_hidden_states=True).hidden_states[-1][:, -1]
            heads = learner.policy.heads
            pulls.append(min(float(heads[name](hidden).detach()) for name in ("target_q1", "target_q2")))
        # V is the same for all candidates, and goes with the sum of the probabilities.
        expected = one + 3.0 / acting.temperature * np.array(pulls)
        expected -= np.log(np.exp(expected).sum())
        np.testing.assert_allclose(two, expected, atol=1e-4)


def test_what_followed_must_be_told_of_every_turn(make_episode: Make) -> None:
    batch = offline_batch([make_episode(0, 2)])
    short = replace(batch, steps=Steps(np.zeros(1, np.float32), 0.5, (None, None)))
    with pytest.raises(LearnerError, match="Expected a reward and a next prompt for each of 2 turns, got 1 and 2"):
        check_batch(short)
    learner_batch = replace(batch, steps=None)
    assert open_ledger(learner_batch, "turn", DEVICE).targets.transitions is None
