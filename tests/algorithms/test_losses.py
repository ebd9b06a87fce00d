import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from llmgym.algorithms import PPO, BehaviourCloning, Outputs, StopsEarly, Targets, algorithm_class
from llmgym.algorithms.kl import k3
from llmgym.algorithms.ppo import clipped_policy_loss, value_loss
from llmgym.errors import LearnerError

NUM_ACTIONS = 3


def make_outputs(num_turns: int, seed: int = 0) -> tuple[Outputs, torch.Tensor, torch.Tensor]:
    """Return outputs with the leaves they are computed from: logits and values."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(num_turns, NUM_ACTIONS, generator=generator, requires_grad=True)
    values = torch.randn(num_turns, generator=generator, requires_grad=True)
    logprobs = torch.log_softmax(logits, -1)
    entropies = -(logprobs.exp() * logprobs).sum(-1)
    return Outputs(logprobs[:, 0], logprobs, entropies, {"value": values}), logits, values


def make_targets(num_turns: int, seed: int = 1) -> Targets:
    generator = torch.Generator().manual_seed(seed)

    def draw() -> torch.Tensor:
        return torch.randn(num_turns, generator=generator)

    zeros, ones = torch.zeros(num_turns, dtype=torch.int64), torch.ones(num_turns)
    return Targets(zeros, -draw().abs(), draw(), draw(), draw(), draw(), num_turns, ones, ones, num_turns)


def cut(outputs: Outputs, targets: Targets, start: int, stop: int) -> tuple[Outputs, Targets]:
    part = slice(start, stop)
    return (
        Outputs(
            outputs.logprobs[part],
            outputs.action_logprobs[part],
            outputs.entropies[part],
            {name: values[part] for name, values in outputs.heads.items()},
        ),
        Targets(
            targets.actions[part],
            targets.behaviour_logprobs[part],
            targets.advantages[part],
            targets.normalized_advantages[part],
            targets.returns[part],
            targets.values[part],
            targets.num_units,
            targets.num_draws[part],
            targets.trajectory_units[part],
            targets.num_trajectories,
        ),
    )


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [
        (1.0, 2.0, -2.0),
        (1.5, 2.0, -2.4),  # clipped at 1.2
        (0.5, 2.0, -1.0),  # the smaller of 0.5*2 and 0.8*2
        (1.5, -2.0, 3.0),  # a bad action grown likely is not clipped
        (0.5, -2.0, 1.6),  # clipped at 0.8
    ],
)
def test_clipped_loss_worked_by_hand(ratio: float, advantage: float, expected: float) -> None:
    loss = clipped_policy_loss(torch.tensor([ratio]).log(), torch.tensor([advantage]), 0.2)
    np.testing.assert_allclose(loss.numpy(), [expected], rtol=1e-6)


def test_gradient_is_0_where_the_ratio_is_clipped() -> None:
    log_ratio = torch.tensor([1.5, 1.0, 0.5]).log().requires_grad_()
    clipped_policy_loss(log_ratio, torch.tensor([1.0, 1.0, -1.0]), 0.2).sum().backward()
    assert log_ratio.grad is not None
    np.testing.assert_allclose(log_ratio.grad.numpy(), [0.0, -1.0, 0.0])


def test_value_loss_is_the_squared_error() -> None:
    loss = value_loss(torch.tensor([3.0]), torch.tensor([1.0]), torch.tensor([0.0]), None)
    np.testing.assert_allclose(loss.numpy(), [4.0])


def test_clipped_value_loss_is_the_larger_of_two_errors() -> None:
    values, returns, old = torch.tensor([3.0, 1.0]), torch.tensor([3.0, 5.0]), torch.tensor([1.0, 0.9])
    # first: no error, but clipped to 1.5 it has 1.5**2; second: error 16, clipped it is still 16.
    np.testing.assert_allclose(value_loss(values, returns, old, 0.5).numpy(), [2.25, 16.0])


def test_kl_estimate_is_never_negative_and_right_on_average() -> None:
    generator = torch.Generator().manual_seed(0)
    behaviour = torch.log_softmax(torch.tensor([0.3, -0.2, 0.1]), -1)
    now = torch.log_softmax(torch.tensor([0.5, -0.4, 0.0]), -1)
    exact = float((behaviour.exp() * (behaviour - now)).sum())
    drawn = torch.multinomial(behaviour.exp(), 200_000, replacement=True, generator=generator)
    estimates = k3((behaviour - now)[drawn])
    assert float(estimates.min()) >= 0
    assert abs(float(estimates.mean()) - exact) < 3 * float(estimates.std()) / 200_000**0.5


def test_ppo_loss_adds_its_three_terms() -> None:
    outputs, _, values = make_outputs(5)
    targets = make_targets(5)
    loss, metrics = PPO(value_coef=0.5, entropy_coef=0.1).loss(outputs, targets)
    policy = clipped_policy_loss(outputs.logprobs - targets.behaviour_logprobs, targets.normalized_advantages, 0.2)
    expected = policy.mean() + 0.5 * (values - targets.returns).square().mean() - 0.1 * outputs.entropies.mean()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    assert set(metrics) == {"policy_loss", "entropy", "approx_kl", "clip_fraction", "value_loss"}
    assert not any(metric.requires_grad for metric in metrics.values())


def test_ppo_uses_advantages_as_they_are_when_told_so() -> None:
    outputs, _, _ = make_outputs(4)
    targets = make_targets(4)
    _, metrics = PPO(normalize_advantages=False, clip=1e6).loss(outputs, targets)
    ratio = (outputs.logprobs - targets.behaviour_logprobs).exp().detach()
    assert float(metrics["policy_loss"]) == pytest.approx(float((-ratio * targets.advantages).mean()), rel=1e-5)


def test_nothing_is_clipped_where_the_policy_has_not_moved() -> None:
    outputs, _, _ = make_outputs(6)
    behaviour = outputs.logprobs.detach()
    other = make_targets(6)
    targets = replace(other, behaviour_logprobs=behaviour)
    _, metrics = PPO().loss(outputs, targets)
    assert float(metrics["clip_fraction"]) == 0.0
    assert float(metrics["approx_kl"]) == 0.0


@pytest.mark.parametrize("algorithm", [PPO(value_clip=0.2), BehaviourCloning(value_coef=0.5)])
def test_parts_of_a_minibatch_add_up_to_its_loss_metrics_and_gradient(algorithm: PPO | BehaviourCloning) -> None:
    whole, whole_logits, whole_values = make_outputs(8)
    loss, metrics = algorithm.loss(whole, make_targets(8))
    loss.backward()
    parts, part_logits, part_values = make_outputs(8)
    sums: dict[str, float] = {}
    total = 0.0
    for start, stop in ((0, 1), (1, 5), (5, 8)):
        part_loss, part_metrics = algorithm.loss(*cut(parts, make_targets(8), start, stop))
        part_loss.backward(retain_graph=True)
        total += float(part_loss.detach())
        for name, metric in part_metrics.items():
            sums[name] = sums.get(name, 0.0) + float(metric)
    assert total == pytest.approx(float(loss.detach()), rel=1e-6)
    assert sums == pytest.approx({name: float(metric) for name, metric in metrics.items()}, rel=1e-5)
    assert part_logits.grad is not None
    assert part_values.grad is not None
    torch.testing.assert_close(part_logits.grad, whole_logits.grad, rtol=0, atol=1e-6)
    torch.testing.assert_close(part_values.grad, whole_values.grad, rtol=0, atol=1e-6)


def test_cloning_is_the_cross_entropy_of_the_demonstrated_actions() -> None:
    outputs, logits, _ = make_outputs(5)
    loss, metrics = BehaviourCloning().loss(outputs, make_targets(5))
    expected = torch.nn.functional.cross_entropy(logits, torch.zeros(5, dtype=torch.int64))
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    assert float(metrics["accuracy"]) == pytest.approx(float((logits.argmax(-1) == 0).float().mean()))
    assert "value_loss" not in metrics


def test_cloning_fits_the_value_head_when_asked_to() -> None:
    outputs, _, values = make_outputs(5)
    loss, metrics = BehaviourCloning(value_coef=2.0).loss(outputs, make_targets(5))
    error = (values - make_targets(5).returns).square().mean()
    assert float(metrics["value_loss"]) == pytest.approx(float(error.detach()), rel=1e-6)
    assert float(loss.detach()) == pytest.approx(float((metrics["clone_loss"] + 2 * error).detach()), rel=1e-6)


def test_cloning_foresees_the_text_when_asked_to() -> None:
    outputs, _, _ = make_outputs(4)
    text_logprobs = torch.tensor([-1.0, -2.0, -3.0, 0.0])
    reading = replace(outputs, text_logprobs=text_logprobs)
    loss, metrics = BehaviourCloning(text_coef=2.0).loss(reading, make_targets(4))
    assert float(metrics["text_loss"]) == 1.5
    assert float(loss.detach()) == pytest.approx(float(metrics["clone_loss"]) + 3.0, rel=1e-6)


def test_only_an_algorithm_with_a_target_stops_early() -> None:
    assert isinstance(PPO(), StopsEarly)
    assert not isinstance(BehaviourCloning(), StopsEarly)
    assert not PPO().is_done({"approx_kl": 9.0})
    assert PPO(target_kl=0.02).is_done({"approx_kl": 0.03})
    assert not PPO(target_kl=0.02).is_done({"approx_kl": 0.01})


def test_missing_value_head_is_told_with_what_to_do() -> None:
    outputs, _, _ = make_outputs(2)
    headless = Outputs(outputs.logprobs, outputs.action_logprobs, outputs.entropies, {})
    with pytest.raises(LearnerError, match=r"to have a head 'value', found: none\. Pass heads=.* value_coef to 0"):
        PPO().loss(headless, make_targets(2))


def test_unknown_algorithm_suggests_the_nearest() -> None:
    with pytest.raises(LearnerError, match=r"rejection, clone, or module:Class, got 'clon'\. Did you mean 'clone'\?"):
        algorithm_class("clon")


def test_importing_the_algorithms_does_not_load_torch() -> None:
    script = "import sys, llmgym.algorithms, llmgym.learner.lora; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
