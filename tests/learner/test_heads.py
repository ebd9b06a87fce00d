"""What heads read: against the model's own plain forward passes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from llmgym.algorithms import ILQL, PPO, Outputs, Targets
from llmgym.candidates import close_prefixes
from llmgym.errors import LearnerError
from llmgym.learner import Learner, LoraSettings, ValueHead, heads_for
from llmgym.learner.evaluation import evaluate
from llmgym.learner.heads import build_heads
from llmgym.learner.packing import build_pack
from llmgym.learner.state_rows import pack_turns
from llmgym.types import Acting, Batch, Turn

Make = Callable[..., Any]
EOS = 1


class First(nn.Module):
    """Tell the first number of what is read: a head without weights that matter."""

    def __init__(self, hidden_size: int, reads: str) -> None:
        super().__init__()
        self.reads = reads
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, hidden_states: Tensor) -> Tensor:
        return hidden_states[:, 0] * self.scale


def firsts(*names: str) -> dict[str, Any]:
    return {name: partial(First, reads=name) for name in names}


def plain_states(model: Any, ids: list[int]) -> Tensor:
    """Return float32 (num_tokens,): the first number of the last hidden state of every token."""
    with torch.no_grad():
        hidden = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1]
    states: Tensor = hidden[0, :, 0]
    return states


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("how", ["score", "constrained"])
def test_heads_read_what_plain_passes_read(kind: str, how: Any, make_model: Make, make_batch: Make) -> None:
    learner = Learner(make_model(kind), heads=firsts("state", "mean", "candidates", "tokens"), acting=Acting(how))
    turns, model = make_batch(5).turns, make_model(kind)
    pack = build_pack(pack_turns(learner.policy, turns, learner.acting, EOS))
    outputs = evaluate(learner.policy, pack, learner.acting, torch.zeros(len(turns), dtype=torch.int64))
    told = {name: values.detach() for name, values in outputs.heads.items()}
    lengths: list[int] = []
    for number, turn in enumerate(turns):
        prompt = turn.prompt_ids.tolist()
        states = plain_states(model, prompt)
        assert float(told["state"][number]) == pytest.approx(float(states[-1]), abs=1e-4)
        assert float(told["mean"][number]) == pytest.approx(float(states.mean()), abs=1e-4)
        closed = close_prefixes(turn.candidate_ids, EOS) if how == "constrained" else turn.candidate_ids
        for place, candidate in enumerate(closed):
            behind = float(plain_states(model, [*prompt, *candidate])[-1])
            assert float(told["candidates"][number, place]) == pytest.approx(behind, abs=1e-4), (number, place)
        grows = (
            number > 0 and len(prompt) > lengths[-1] and turns[number - 1].prompt_ids.tolist() == prompt[: lengths[-1]]
        )
        added = states[lengths[-1] if grows else 0 :]
        torch.testing.assert_close(told["tokens"][number, : len(added)], added, rtol=0, atol=1e-4)
        assert bool((told["tokens"][number, len(added) :] == -torch.inf).all())
        lengths.append(len(prompt))


def test_turns_with_fewer_candidates_are_filled_up(make_model: Make, make_turn: Make) -> None:
    learner = Learner(make_model(), heads=firsts("candidates"))
    turns = [make_turn([3, 4], ((5, 6), (7,), (5,))), make_turn([9, 4], ((8,),))]
    pack = build_pack(pack_turns(learner.policy, turns, learner.acting, EOS))
    assert pack.input_ids.shape[1] == 2 + 3, "5, 6 and 7 are fed: a candidate that begins another is read where it ends"
    heads = evaluate(learner.policy, pack, learner.acting, torch.zeros(2, dtype=torch.int64)).heads
    assert (heads["candidates"] == -torch.inf).tolist() == [[False, False, False], [False, True, True]]


def test_log_probabilities_are_the_same_where_ends_are_fed(make_model: Make, make_batch: Make) -> None:
    batch = make_batch(6)
    for how in ("score", "constrained"):
        plain, feeding = (
            Learner(make_model(), heads=heads, acting=Acting(how)) for heads in ({}, firsts("candidates"))
        )
        np.testing.assert_allclose(feeding.logprobs(batch.turns), plain.logprobs(batch.turns), atol=1e-5)


def test_a_head_without_the_attribute_reads_the_state(make_model: Make, make_batch: Make) -> None:
    class Plain(nn.Module):
        def forward(self, hidden_states: Tensor) -> Tensor:
            return hidden_states[:, 0]

    turns = make_batch(4).turns
    learner = Learner(make_model(), heads={"plain": Plain(), **firsts("state")})
    pack = build_pack(pack_turns(learner.policy, turns, learner.acting, EOS))
    heads = evaluate(learner.policy, pack, learner.acting, torch.zeros(len(turns), dtype=torch.int64)).heads
    torch.testing.assert_close(heads["plain"], heads["state"])


@dataclass(frozen=True)
class Auxiliary:
    """Two critics of opposite rewards, and a head that learns a number at every token."""

    epochs: int = 5
    minibatch_turns: int = 1000

    def loss(self, outputs: Outputs, targets: Targets) -> tuple[Tensor, Mapping[str, Tensor]]:
        gain = targets.mean((outputs.heads["gain"] - targets.returns).square())
        cost = targets.mean((outputs.heads["cost"] + targets.returns).square())
        foreseen = outputs.heads["tokens"]
        is_token = foreseen > -torch.inf
        errors = (foreseen.masked_fill(~is_token, 0.0) - is_token.float()).square()
        tokens = targets.mean(errors.sum(-1) / is_token.sum(-1).clamp(min=1))
        metrics = {"gain_loss": gain.detach(), "cost_loss": cost.detach(), "token_loss": tokens.detach()}
        return gain + cost + tokens, metrics


def test_several_critics_and_an_auxiliary_head_over_tokens_learn_at_once(make_model: Make, make_batch: Make) -> None:
    heads = {"gain": ValueHead, "cost": partial(ValueHead, reads="mean"), "tokens": partial(ValueHead, reads="tokens")}
    learner = Learner(make_model(), heads=heads, algorithm=Auxiliary(), learning_rate=3e-3)
    batch: Batch = make_batch()
    metrics = [learner.update(batch) for _ in range(6)]
    for name in ("gain_loss", "cost_loss", "token_loss"):
        assert metrics[-1][name] < 0.6 * metrics[0][name], name


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2)])
def test_a_detached_critic_sends_no_gradient_into_the_model(
    lora: LoraSettings | None, make_model: Make, make_batch: Make
) -> None:
    @dataclass(frozen=True)
    class OnlyValue:
        epochs: int = 1
        minibatch_turns: int = 1000

        def loss(self, outputs: Outputs, targets: Targets) -> tuple[Tensor, Mapping[str, Tensor]]:
            return targets.mean((outputs.heads["value"] - targets.returns).square()), {}

    learner = Learner(
        make_model(), lora=lora, heads=heads_for(PPO(), trunk="detached"), algorithm=OnlyValue(), learning_rate=0.1
    )
    before = {name: value.detach().clone() for name, value in learner.policy.named_parameters()}
    for _ in range(2):
        learner.update(make_batch())
    for name, value in learner.policy.named_parameters():
        assert torch.equal(value, before[name]) != name.startswith("heads."), name


def test_values_of_a_head_over_candidates_are_refused(make_model: Make, make_episode: Make) -> None:
    learner = Learner(make_model(), heads=heads_for(ILQL()))
    with pytest.raises(LearnerError, match=r"Expected a head that reads states, got 'q1', which reads candidates\."):
        learner.values([make_episode(0)], head="q1")


@pytest.mark.parametrize("reads", ["candidates", "tokens"])
def test_credit_for_draws_refuses_heads_that_read_no_single_state(
    reads: str, make_model: Make, make_turn: Make
) -> None:
    learner = Learner(make_model(), heads=firsts(reads), algorithm=PPO(credit="draw"))
    turn: Turn = make_turn([3, 4])
    one = np.zeros(1, np.float32)
    message = rf"one state a draw where credit is given to draws, but '{reads}' reads {reads}\. Give credit to turns"
    with pytest.raises(LearnerError, match=message):
        learner.update(Batch((turn,), one, one, one))


def test_heads_that_read_what_nobody_has_are_refused() -> None:
    with pytest.raises(LearnerError, match=r"reads of the head 'a' to be one of state, mean, .* got 'everything'"):
        build_heads({"a": partial(First, reads="everything")}, 8)
    with pytest.raises(LearnerError, match=r"trunk of the head 'a' to be one of shared, detached, .* got 'oak'"):
        build_heads({"a": partial(ValueHead, trunk="oak")}, 8)  # type: ignore[arg-type]


def noisy_value(hidden_size: int) -> ValueHead:
    """Make a separate critic's head that is not 0 at the start, so that its trunk gets a gradient at once."""
    head = ValueHead(hidden_size, trunk="separate")
    nn.init.normal_(head.outer.weight)
    return head


@dataclass(frozen=True)
class Weighed:
    """A policy loss and a value loss, each of which may be left out."""

    policy_coef: float = 1.0
    value_coef: float = 1.0
    epochs: int = 1
    minibatch_turns: int = 1000

    def loss(self, outputs: Outputs, targets: Targets) -> tuple[Tensor, Mapping[str, Tensor]]:
        value = targets.mean((outputs.heads["value"] - targets.returns).square())
        return self.policy_coef * targets.mean(-outputs.logprobs) + self.value_coef * value, {"value": value.detach()}


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2)])
@pytest.mark.parametrize("learns", ["policy", "value"])
def test_a_separate_critic_and_the_policy_leave_each_other_alone(
    learns: str, lora: LoraSettings | None, make_model: Make, make_batch: Make
) -> None:
    algorithm = Weighed(policy_coef=float(learns == "policy"), value_coef=float(learns == "value"))
    learner = Learner(make_model(), lora=lora, heads={"value": noisy_value}, algorithm=algorithm, learning_rate=1e-2)
    before = {name: value.detach().clone() for name, value in learner.policy.named_parameters()}
    learner.update(make_batch())
    named = dict(learner.policy.named_parameters())
    moved = {name.split(".")[0] for name, value in named.items() if not same_as(value, before[name])}
    assert moved == ({"model"} if learns == "policy" else {"critic", "heads"})
    frozen = [name for name, value in named.items() if not value.requires_grad]
    assert bool(frozen) == (lora is not None)
    assert all(same_as(named[name], before[name]) for name in frozen)


def same_as(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.detach(), other)


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2)])
def test_a_separate_critic_is_saved_and_goes_on_to_the_same_numbers(
    lora: LoraSettings | None, make_model: Make, make_batch: Make, make_episode: Make, tmp_path: Path
) -> None:
    learner = Learner(
        make_model(), lora=lora, heads=heads_for(PPO(), trunk="separate"), algorithm=PPO(epochs=1), learning_rate=1e-2
    )
    first = Learner(make_model(), lora=lora, algorithm=PPO(epochs=1))
    (plain,) = first.values([make_episode(0)])
    np.testing.assert_array_equal(learner.values([make_episode(0)])[0], plain)
    for seed in range(2):
        learner.update(make_batch(seed=seed))
    learner.save(tmp_path / "checkpoint")
    assert (tmp_path / "checkpoint" / "critic.safetensors").is_file()
    loaded = Learner.load(tmp_path / "checkpoint")
    np.testing.assert_array_equal(loaded.values([make_episode(0)])[0], learner.values([make_episode(0)])[0])
    assert loaded.update(make_batch(seed=3)) == learner.update(make_batch(seed=3))
    for (name, one), other in zip(learner.policy.named_parameters(), loaded.policy.parameters(), strict=True):
        assert torch.equal(one, other), name
    (tmp_path / "checkpoint" / "critic.safetensors").unlink()
    with pytest.raises(LearnerError, match="Expected the separate critic of the checkpoint to have the weights that"):
        Learner.load(tmp_path / "checkpoint")


def test_values_of_a_separate_critic_do_not_ask_the_policy(make_model: Make, make_episode: Make) -> None:
    learner = Learner(make_model(), heads={"value": noisy_value})
    asked: list[bool] = []
    learner.policy.model.register_forward_pre_hook(lambda *_: asked.append(True))
    learner.policy.model.base_model.register_forward_pre_hook(lambda *_: asked.append(True))
    assert np.abs(learner.values([make_episode(0)])[0][:-1]).min() > 0
    assert asked == []
    learner.logprobs(make_episode(0).turns)
    assert asked == [True]
