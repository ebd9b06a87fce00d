from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from llmgym.algorithms import PPO, BehaviourCloning, Outputs, Targets
from llmgym.errors import LearnerError
from llmgym.learner import Learner, LoraSettings, ValueHead
from llmgym.learner.gradient import Gradients
from llmgym.learner.state_rows import pack_turns
from llmgym.learner.update import Update, run_update
from llmgym.types import Acting, Batch, FloatArray, Trajectory, Turn

Make = Callable[..., Any]


def as_sampled(learner: Learner, batch: Batch) -> Batch:
    """Return a batch whose behaviour log-probabilities are the learner's own."""
    turns = tuple(
        Turn(t.prompt_ids, t.candidate_ids, t.action, float(p), t.reward, t.terminated, t.truncated, 0)
        for t, p in zip(batch.turns, learner.logprobs(batch.turns), strict=True)
    )
    return Batch(turns, batch.advantages, batch.returns, batch.values)


def weights_of(learner: Learner) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in learner.policy.parameters()]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_values_come_with_the_state_after_the_last_turn(make_model: Make, make_episode: Make) -> None:
    head = ValueHead(32)
    nn.init.normal_(head.outer.weight, generator=torch.Generator().manual_seed(0))
    learner = Learner(make_model(), heads={"value": head})
    ended, cut = make_episode(0, 3), make_episode(1, 4, terminated=False)
    (first, second), model = learner.values([ended, cut]), make_model()
    assert first.shape == (4,)
    assert first.dtype == np.float32
    assert first[-1] == 0.0
    states = [*(turn.prompt_ids for turn in cut.turns), cut.final_prompt_ids]
    for value, prompt in zip(second, states, strict=True):
        ids = torch.from_numpy(prompt.astype(np.int64))[None]
        hidden = model(ids, output_hidden_states=True).hidden_states[-1][:, -1]
        assert float(learner.policy.heads["value"](hidden).detach()) == pytest.approx(float(value), rel=1e-5, abs=1e-5)


def test_values_are_about_0_at_the_start(make_model: Make, make_episode: Make) -> None:
    (values,) = Learner(make_model()).values([make_episode(0)])
    assert np.abs(values).max() < 1e-3


def test_values_of_a_head_that_is_not_there_are_refused(make_model: Make, make_episode: Make) -> None:
    with pytest.raises(LearnerError, match=r"Expected a head 'cost', found: value\. Pass heads="):
        Learner(make_model()).values([make_episode(0)], head="cost")


def test_trajectories_give_as_many_values_as_asked_for_one_by_one(make_model: Make, make_episode: Make) -> None:
    learner = Learner(make_model(), heads={"value": _noisy_head}, max_tokens_per_microbatch=64)
    episodes: list[Trajectory] = [make_episode(seed, 1 + seed % 4, terminated=seed % 2 == 0) for seed in range(7)]
    together = learner.values(episodes)
    for episode, values in zip(episodes, together, strict=True):
        np.testing.assert_allclose(learner.values([episode])[0], values, atol=1e-5)


def _noisy_head(hidden_size: int) -> ValueHead:
    head = ValueHead(hidden_size)
    nn.init.normal_(head.outer.weight, generator=torch.Generator().manual_seed(0))
    return head


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2)])
def test_first_ratio_is_exactly_1(kind: str, lora: LoraSettings | None, make_model: Make, make_batch: Make) -> None:
    learner = Learner(
        make_model(kind).train(),
        lora=lora,
        algorithm=PPO(epochs=1, minibatch_turns=1000),
        acting=Acting("constrained", temperature=0.7),
        learning_rate=1e-2,
    )
    batch = as_sampled(learner, make_batch())
    metrics = learner.update(batch)
    assert metrics["behaviour_gap"] < 1e-5
    assert metrics["approx_kl"] < 1e-9
    assert metrics["clip_fraction"] == 0.0
    assert learner.update(batch)["behaviour_gap"] > 1e-4


def test_behaviour_that_is_another_policy_shows_in_the_gap(make_model: Make, make_batch: Make) -> None:
    learner = Learner(make_model(), algorithm=PPO(epochs=1, minibatch_turns=1000))
    batch = as_sampled(learner, make_batch())
    last, count = batch.turns[-1], len(batch.turns)
    off = Turn(last.prompt_ids, last.candidate_ids, last.action, last.logprob - 0.5, 0.0, True, False, 0)
    moved = Batch((*batch.turns[:-1], off), batch.advantages, batch.returns, batch.values)
    metrics = learner.update(moved)
    expected = {
        "behaviour_gap": 0.5,
        "behaviour_gap_mean": 0.5 / count,
        "behaviour_gap_p99": np.quantile([0.0] * (count - 1) + [0.5], 0.99),
        "behaviour_kl": (np.exp(0.5) - 1.5) / count,
        "behaviour_factor": (count - 1 + np.exp(0.5)) / count,
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    "algorithm",
    [PPO(epochs=1, minibatch_turns=1000), BehaviourCloning(1, 1000, value_coef=0.5, text_coef=0.7)],
)
def test_micro_batches_of_one_row_give_the_gradient_of_all_at_once(
    algorithm: PPO | BehaviourCloning, make_model: Make, make_batch: Make
) -> None:
    batch = make_batch(8)

    def step(max_tokens: int) -> tuple[list[Tensor], dict[str, float]]:
        learner = Learner(make_model(), heads={"value": _noisy_head})
        before = weights_of(learner)
        optimizer = torch.optim.SGD(learner.policy.parameters(), lr=1.0)
        rows = pack_turns(learner.policy, batch.turns, Acting(), None)
        update = Update(algorithm, Acting(), max_tokens, None)
        metrics = run_update(
            Gradients(learner.policy), optimizer, rows, batch, update=update, rng=np.random.default_rng(0)
        )
        gradients = [b - a for b, a in zip(before, weights_of(learner), strict=True)]
        return gradients, metrics

    together, metrics = step(10**6)
    apart, metrics_apart = step(1)
    scale = max(float(gradient.abs().max()) for gradient in together)
    for first, second in zip(together, apart, strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=1e-6 * max(1.0, scale))
    assert metrics_apart == pytest.approx(metrics, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2)])
def test_same_seed_gives_the_same_metrics_and_weights(
    lora: LoraSettings | None, make_model: Make, make_batch: Make
) -> None:
    def run(seed: int) -> tuple[list[dict[str, float]], list[Tensor]]:
        learner = Learner(make_model(), lora=lora, algorithm=PPO(epochs=2, minibatch_turns=6), seed=seed)
        return [learner.update(make_batch(seed=number)) for number in range(3)], weights_of(learner)

    first, second, other = run(0), run(0), run(1)
    assert first[0] == second[0]
    assert same(first[1], second[1])
    assert first[0] != other[0]


def test_ppo_makes_good_actions_likely_and_the_critic_right(make_model: Make, make_batch: Make) -> None:
    learner = Learner(make_model(), algorithm=PPO(epochs=4, minibatch_turns=8, entropy_coef=0.0), learning_rate=3e-3)
    batch = as_sampled(learner, make_batch(10))
    good = batch.advantages > np.median(batch.advantages)
    before = learner.logprobs(batch.turns)
    explained = [learner.update(batch)["explained_variance"] for _ in range(15)]
    change = learner.logprobs(batch.turns) - before
    assert change[good].mean() > change[~good].mean() + 0.1
    assert explained[0] < 0.2
    assert explained[-1] > 0.8


def test_cloning_learns_the_demonstrated_actions(make_model: Make, make_batch: Make) -> None:
    # "constrained": as a sum of log-probabilities, no candidate can become likelier than its own prefix
    algorithm = BehaviourCloning(4, 8)
    learner = Learner(make_model(), algorithm=algorithm, acting=Acting("constrained"), learning_rate=1e-2)
    batch = make_batch(10)
    metrics = [learner.update(batch) for _ in range(10)]
    assert metrics[-1]["clone_loss"] < 0.3 * metrics[0]["clone_loss"]
    assert metrics[-1]["accuracy"] > 0.95
    assert metrics[-1]["epochs"] == 4


def test_an_adapter_learns_and_the_base_stays_as_it_was(make_model: Make, make_batch: Make) -> None:
    learner = Learner(make_model(), lora=LoraSettings(rank=4), algorithm=BehaviourCloning(4, 8), learning_rate=1e-2)
    base = {name: value for name, value in learner.policy.causal_model.named_parameters() if "lora_" not in name}
    before = {name: value.clone() for name, value in base.items()}
    losses = [learner.update(make_batch(10))["clone_loss"] for _ in range(8)]
    assert losses[-1] < 0.5 * losses[0]
    assert all(torch.equal(before[name], value) for name, value in base.items())


def test_target_kl_stops_the_epochs(make_model: Make, make_batch: Make) -> None:
    algorithm = PPO(epochs=10, minibatch_turns=4, target_kl=0.01)
    learner = Learner(make_model(), algorithm=algorithm, learning_rate=1e-2)
    metrics = learner.update(as_sampled(learner, make_batch()))
    assert 1 <= metrics["epochs"] < 10
    assert metrics["steps"] < 10 * metrics["epochs"]


def test_gradient_is_really_clipped(make_model: Make, make_batch: Make) -> None:
    def step(max_grad_norm: float | None) -> tuple[float, float]:
        learner = Learner(make_model())
        before = weights_of(learner)
        optimizer = torch.optim.SGD(learner.policy.parameters(), lr=1.0)
        rows = pack_turns(learner.policy, make_batch().turns, Acting(), None)
        update = Update(PPO(epochs=1, minibatch_turns=1000), Acting(), 10**6, max_grad_norm)
        metrics = run_update(
            Gradients(learner.policy), optimizer, rows, make_batch(), update=update, rng=np.random.default_rng(0)
        )
        moved = sum(float((a - b).square().sum()) for a, b in zip(before, weights_of(learner), strict=True)) ** 0.5
        return metrics["grad_norm"], moved

    norm, moved = step(None)
    assert moved == pytest.approx(norm, rel=1e-4)
    clipped_norm, clipped_moved = step(norm / 10)
    assert clipped_norm == pytest.approx(norm, rel=1e-5)
    assert clipped_moved == pytest.approx(norm / 10, rel=1e-4)


def test_weights_are_float32_and_change_at_a_small_rate(make_model: Make, make_batch: Make) -> None:
    learner = Learner(make_model().to(torch.bfloat16), learning_rate=1e-6, algorithm=PPO(epochs=1))
    assert {parameter.dtype for parameter in learner.policy.parameters()} == {torch.float32}
    before = weights_of(learner)
    learner.update(make_batch())
    assert not same(before, weights_of(learner))


def test_a_head_that_is_not_finite_stops_the_update_before_its_step(make_model: Make, make_batch: Make) -> None:
    class Broken(nn.Module):
        def __init__(self, hidden_size: int) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(hidden_size))

        def forward(self, hidden_states: Tensor) -> Tensor:
            return (hidden_states * self.scale).sum(-1) / 0.0

    learner = Learner(make_model(), heads={"value": Broken})
    before = weights_of(learner)
    with pytest.raises(LearnerError, match=r"Expected a finite loss, got (nan|inf) \(.*value_loss .*The step was not"):
        learner.update(make_batch())
    assert same(before, weights_of(learner))


def test_a_gradient_that_is_not_finite_stops_the_update_before_its_step(make_model: Make, make_batch: Make) -> None:
    class Steep(nn.Module):
        def __init__(self, hidden_size: int) -> None:
            super().__init__()
            self.offset = nn.Parameter(torch.zeros(hidden_size))

        def forward(self, hidden_states: Tensor) -> Tensor:
            # finite at 0, with an infinite slope
            return (0.0 * hidden_states + self.offset).sum(-1).sqrt()

    learner = Learner(make_model(), heads={"value": Steep})
    before = weights_of(learner)
    with pytest.raises(LearnerError, match=r"Expected a finite gradient, got norm nan, first in .*The step was not"):
        learner.update(make_batch())
    assert same(before, weights_of(learner))
    assert all(parameter.grad is None for parameter in learner.policy.parameters())


def test_temperature_0_is_refused_for_learning(make_model: Make) -> None:
    with pytest.raises(LearnerError, match=r"a temperature above 0 to learn from, got 0\.0: greedy actions have no"):
        Learner(make_model(), acting=Acting(temperature=0.0))


def test_a_users_own_algorithm_is_a_class_of_ten_lines(make_model: Make, make_batch: Make) -> None:
    @dataclass(frozen=True)
    class Reinforce:
        epochs: int = 1
        minibatch_turns: int = 256

        def loss(self, outputs: Outputs, targets: Targets) -> tuple[Tensor, Mapping[str, Tensor]]:
            loss = targets.mean(-targets.returns * outputs.logprobs)
            return loss, {"policy_loss": loss.detach()}

    learner = Learner(make_model(), heads={}, algorithm=Reinforce(), learning_rate=1e-2)
    batch = make_batch()
    metrics = [learner.update(batch) for _ in range(5)]
    assert metrics[-1]["policy_loss"] < metrics[0]["policy_loss"]
    assert "explained_variance" not in metrics[0]


def test_a_users_own_head_is_learned_beside_the_value(make_model: Make, make_batch: Make) -> None:
    class Danger(nn.Module):
        def __init__(self, hidden_size: int) -> None:
            super().__init__()
            self.linear = nn.Linear(hidden_size, 1)

        def forward(self, hidden_states: Tensor) -> Tensor:
            return self.linear(hidden_states).squeeze(-1)  # type: ignore[no-any-return]

    @dataclass(frozen=True)
    class Both:
        epochs: int = 5
        minibatch_turns: int = 256

        def loss(self, outputs: Outputs, targets: Targets) -> tuple[Tensor, Mapping[str, Tensor]]:
            error = (outputs.heads["danger"] - 1.0).square() + (outputs.heads["value"] - targets.returns).square()
            loss = targets.mean(error)
            return loss, {"error": loss.detach()}

    learner = Learner(make_model(), heads={"value": ValueHead, "danger": Danger}, algorithm=Both(), learning_rate=3e-3)
    batch = make_batch()
    metrics = [learner.update(batch) for _ in range(5)]
    assert metrics[-1]["error"] < 0.5 * metrics[0]["error"]
    assert "explained_variance" in metrics[0]


def test_cloning_then_ppo_on_the_same_weights_with_a_fresh_optimizer(make_model: Make, make_batch: Make) -> None:
    learner = Learner(make_model(), algorithm=BehaviourCloning(2, 8), learning_rate=3e-3)
    learner.update(make_batch())
    cloned = weights_of(learner)
    learner.set_algorithm(PPO(epochs=1), learning_rate=1e-4)
    assert same(cloned, weights_of(learner))
    assert not learner._optimizer.state
    assert [group["lr"] for group in learner._optimizer.param_groups] == [1e-4, 1e-4, 3e-3, 3e-3]
    assert "approx_kl" in learner.update(make_batch())
    kept = learner._optimizer
    learner.set_algorithm(PPO(epochs=1), learning_rate=1e-4)
    assert learner._optimizer is kept


@pytest.mark.parametrize(
    "lora", [LoraSettings(rank=2), LoraSettings(4, rank_stabilised=True), LoraSettings(2, dora=True)]
)
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_model_and_adapter_make_the_weights_that_peft_merges(
    kind: str, lora: LoraSettings, make_model: Make, make_batch: Make
) -> None:
    learner = Learner(make_model(kind), lora=lora, learning_rate=1e-2)
    learner.update(make_batch())
    found = dict(learner.policy.named_weights())
    merged = learner.policy.model.merge_and_unload()
    expected = dict(merged.named_parameters())
    assert set(found) == set(expected)
    plain = dict(make_model(kind).named_parameters())
    moved = [name for name, value in found.items() if not torch.equal(value, plain[name])]
    assert moved
    assert all("lm_head" not in name for name in moved)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name].detach(), atol=1e-5, rtol=1e-5)


def test_an_eos_inside_a_prompt_counts_like_any_token(make_model: Make, make_turn: Make) -> None:
    learner = Learner(make_model())
    with_eos, other = make_turn([3, 1, 1, 4]), make_turn([3, 2, 2, 4])
    together = learner.action_logprobs([with_eos, other])
    assert np.abs(together[0] - together[1]).max() > 1e-3
    np.testing.assert_allclose(learner.action_logprobs([with_eos])[0], together[0], atol=1e-5)


def test_scores_of_texts_as_token_ids(make_model: Make) -> None:
    learner, model = Learner(make_model()), make_model()
    (scores,) = learner.score([[3, 4, 5]], [[(6, 7), (8,)]])
    logprobs = torch.log_softmax(model(torch.tensor([[3, 4, 5, 6, 7]])).logits[0], -1)
    expected: FloatArray = np.array(
        [float((logprobs[2, 6] + logprobs[3, 7]).detach()), float(logprobs[2, 8].detach())], np.float32
    )
    np.testing.assert_allclose(scores, expected, atol=1e-5)
