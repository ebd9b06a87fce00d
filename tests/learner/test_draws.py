"""Credit to draws, and the reference policy, against slow references: one plain forward pass a sequence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from llmgym.algorithms import GRPO, PPO, Algorithm, Outputs, ReturnSettings, Targets
from llmgym.errors import LearnerError
from llmgym.learner import Learner, LoraSettings
from llmgym.rollout.batch import make_batch
from llmgym.types import Acting, TokenIds, Trajectory, Turn

EOS = 1
CUE: TokenIds = (20, 21)
CANDIDATES: tuple[TokenIds, ...] = ((5, 6), (5, 7), (10,))


def episode(how: str, *, observed: int = 3, seed: int = 0, is_over: bool = True) -> Trajectory:
    """Return an episode of three turns, with 1, 2 and 3 free tokens, and observations of so many tokens."""
    rng = np.random.default_rng(seed)
    prompt, turns = [2, 3, 4], []
    for number in range(3):
        sampled = tuple(map(int, rng.integers(2, 64, size=1 + number))) if how in ("text", "reason") else ()
        action = int(rng.integers(3))
        num_draws = len(sampled) + (how != "text")
        turn = Turn(
            np.array(prompt, np.int32),
            CANDIDATES,
            action,
            logprob=-0.5 * num_draws,
            reward=float(rng.normal()),
            terminated=is_over and number == 2,
            truncated=False,
            policy_version=0,
            sampled_ids=sampled,
            cue_ids=CUE if how == "reason" else (),
            draw_logprobs=(-0.5,) * num_draws if num_draws > 1 or how == "text" else (),
        )
        turns.append(turn)
        said = (*sampled, *(CUE if how == "reason" else ()), *(() if how == "text" else CANDIDATES[action]))
        prompt = [*prompt, *said, *([30 + number] * observed)]
    return Trajectory(tuple(turns), None if is_over else np.array(prompt, np.int32), seed=seed)


def slow_draws(model: Any, turn: Turn) -> list[float]:
    """Return the log-probability of every draw of a turn, by plain forward passes."""

    def logprobs_behind(ids: list[int]) -> Tensor:
        return model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)

    prompt, sampled = turn.prompt_ids.tolist(), list(turn.sampled_ids)
    free = logprobs_behind([*prompt, *sampled])
    draws = [float(free[len(prompt) - 1 + place, token].detach()) for place, token in enumerate(sampled)]
    if turn.cue_ids or not sampled:
        context = [*prompt, *sampled, *turn.cue_ids]
        scores = []
        for candidate in turn.candidate_ids:
            table = logprobs_behind([*context, *candidate])
            scores.append(sum(table[len(context) - 1 + place, token] for place, token in enumerate(candidate)))
        draws.append(float(torch.stack(scores).log_softmax(0)[turn.action].detach()))
    return draws


@dataclass(frozen=True)
class Spy:
    """An algorithm that keeps what it is told."""

    seen: list[tuple[Outputs, Targets]]
    credit: Any = "draw"
    reference_coef: float = 0.0
    epochs: int = 1
    minibatch_turns: int = 100

    def loss(self, outputs: Outputs, targets: Targets) -> tuple[Tensor, dict[str, Tensor]]:
        self.seen.append((outputs, targets))
        return targets.mean(outputs.logprobs) * 0.0, {}


def told(learner: Learner, algorithm: Spy, trajectories: list[Trajectory]) -> tuple[Outputs, Targets]:
    learner.set_algorithm(algorithm)
    learner.update(make_batch(trajectories, learner.values(trajectories), ReturnSettings(), algorithm))
    return algorithm.seen[-1]


@pytest.mark.parametrize("how", ["text", "reason", "score"])
def test_every_draw_has_the_logprob_of_a_plain_forward_pass(how: str, make_model: Callable[..., Any]) -> None:
    model = make_model()
    learner = Learner(model, acting=Acting(how), eos_token_id=EOS)  # type: ignore[arg-type]
    outputs, targets = told(learner, Spy([]), [episode(how)])
    expected = [one for turn in episode(how).turns for one in slow_draws(model, turn)]
    assert len(outputs.logprobs) == {"text": 6, "reason": 9, "score": 3}[how]
    np.testing.assert_allclose(outputs.logprobs.detach().numpy(), expected, atol=1e-4)
    assert outputs.entropies.shape == outputs.heads["value"].shape == outputs.logprobs.shape
    assert outputs.action_logprobs.shape == (len(expected), 0)
    assert targets.behaviour_logprobs.tolist() == [-0.5] * len(expected)
    assert targets.num_draws.tolist() == [1.0] * len(expected)
    assert targets.trajectory_units.tolist() == [float(len(expected))] * len(expected)
    assert targets.num_trajectories == pytest.approx(1.0)


@pytest.mark.parametrize("credit", ["turn", "draw"])
@pytest.mark.parametrize("how", ["text", "reason", "score"])
def test_every_unit_is_learned_from_with_the_advantage_of_its_own(
    how: str, credit: Any, make_model: Callable[..., Any]
) -> None:
    model = make_model()
    learner = Learner(model, acting=Acting(how), eos_token_id=EOS, max_tokens_per_microbatch=40)  # type: ignore[arg-type]
    trajectories = [episode(how, observed=observed, seed=observed) for observed in (3, 1, 7)]
    algorithm = Spy([], credit=credit, minibatch_turns=4)
    learner.set_algorithm(algorithm)
    batch = make_batch(trajectories, learner.values(trajectories), ReturnSettings(), algorithm)
    draws = [slow_draws(model, turn) for turn in batch.turns]
    slow = [one for each in draws for one in each] if credit == "draw" else [sum(each) for each in draws]
    numbers = np.arange(1, len(slow) + 1, dtype=np.float32)
    learner.update(replace(batch, advantages=numbers))
    assert len(algorithm.seen) > 1, "in several parts"
    found = [
        (advantage, logprob)
        for outputs, targets in algorithm.seen
        for advantage, logprob in zip(targets.advantages.tolist(), outputs.logprobs.tolist(), strict=True)
    ]
    np.testing.assert_allclose(sorted(found), list(zip(numbers, slow, strict=True)), atol=1e-4)


def test_draws_add_up_to_their_turn(make_model: Callable[..., Any]) -> None:
    learner = Learner(make_model(), acting=Acting("reason"), eos_token_id=EOS)
    by_draw, _ = told(learner, Spy([]), [episode("reason")])
    by_turn, targets = told(learner, Spy([], credit="turn"), [episode("reason")])
    parts = torch.split(by_draw.logprobs.detach(), [2, 3, 4])
    torch.testing.assert_close(torch.stack([part.sum() for part in parts]), by_turn.logprobs.detach())
    assert targets.num_draws.tolist() == [2.0, 3.0, 4.0]


@pytest.mark.parametrize("how", ["text", "reason"])
def test_what_is_only_read_changes_no_advantage(how: str, make_model: Callable[..., Any]) -> None:
    short, long = episode(how), episode(how, observed=9)
    for algorithm in (GRPO(), PPO(credit="draw")):
        values = None
        if isinstance(algorithm, PPO):
            num_draws = sum(turn.num_draws for turn in short.turns)
            values = [np.linspace(0, 1, num_draws + 1, dtype=np.float32)]
        batches = [make_batch([each], values, ReturnSettings(gamma=0.5), algorithm) for each in (short, long)]
        np.testing.assert_array_equal(batches[0].advantages, batches[1].advantages)
        assert len(batches[0].advantages) == sum(turn.num_draws for turn in short.turns)


def test_within_a_turn_no_time_passes() -> None:
    """gamma = 0: only the reward of its own turn reaches a draw, and every draw of the turn alike."""
    trajectory = episode("reason")
    values = [np.zeros(10, np.float32)]
    batch = make_batch([trajectory], values, ReturnSettings(gamma=0.0, lam=0.9), PPO(credit="draw"))
    rewards = [turn.reward for turn in trajectory.turns]
    np.testing.assert_allclose(batch.advantages, np.repeat(rewards, [2, 3, 4]), rtol=1e-6)


@pytest.mark.parametrize("how", ["text", "reason", "score"])
def test_values_are_read_where_each_draw_is_made(how: str, make_model: Callable[..., Any]) -> None:
    model = make_model()
    learner = Learner(model, acting=Acting(how), eos_token_id=EOS, algorithm=PPO(credit="draw"))  # type: ignore[arg-type]
    with torch.no_grad():
        learner.policy.heads["value"].outer.weight.normal_(generator=torch.Generator().manual_seed(0))  # type: ignore[union-attr,operator]
    cut = episode(how, is_over=False)
    found = learner.values([cut, episode(how)])
    places = []
    for turn in cut.turns:
        prompt = turn.prompt_ids.tolist()
        places += [[*prompt, *turn.sampled_ids[:count]] for count in range(len(turn.sampled_ids))]
        if how != "text":
            places.append([*prompt, *turn.sampled_ids, *turn.cue_ids])
    assert cut.final_prompt_ids is not None
    places.append(cut.final_prompt_ids.tolist())
    head = learner.policy.heads["value"]
    with torch.no_grad():
        states = [model.model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1] for ids in places]
        expected = torch.cat([head(state[None]) for state in states])
    np.testing.assert_allclose(found[0], expected.numpy(), atol=1e-4)
    assert found[1][-1] == 0.0, "its episode is over"


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2)])
@pytest.mark.parametrize("credit", ["turn", "draw"])
def test_the_reference_stays_what_the_policy_was(
    credit: Any, lora: LoraSettings | None, make_model: Callable[..., Any], tmp_path: Path
) -> None:
    learner = Learner(make_model(), lora=lora, acting=Acting("reason"), eos_token_id=EOS, learning_rate=1e-3)
    trajectories = [episode("reason"), episode("reason", seed=5)]
    before, _ = told(learner, Spy([], credit=credit), trajectories)
    algorithm: Algorithm = PPO(credit=credit, reference_coef=0.1)
    learner.set_algorithm(algorithm, learning_rate=1e-3)
    batch = make_batch(trajectories, learner.values(trajectories), ReturnSettings(), algorithm)
    assert learner.update(batch)["reference_kl"] > 0, "epochs behind the first see another policy"
    asked = Spy([], credit=credit, reference_coef=0.1)
    learner._settings = replace(learner._settings, algorithm=asked)
    learner.update(batch)
    _, targets = asked.seen[-1]
    assert targets.reference_logprobs is not None
    torch.testing.assert_close(targets.reference_logprobs, before.logprobs.detach(), atol=1e-5, rtol=0)
    learner._settings = replace(learner._settings, algorithm=algorithm)
    learner.save(tmp_path / "saved")
    again = Learner.load(tmp_path / "saved")
    assert learner.update(batch)["loss"] == again.update(batch)["loss"]


def test_a_batch_for_turns_is_no_batch_for_draws(make_model: Callable[..., Any]) -> None:
    learner = Learner(make_model(), acting=Acting("reason"), eos_token_id=EOS, algorithm=GRPO())
    trajectories = [episode("reason"), replace(episode("reason", seed=1), seed=0)]
    batch = make_batch(trajectories, None, ReturnSettings(), GRPO(credit="turn"))
    with pytest.raises(LearnerError, match=r"Expected advantages for 18 draws, got 6\. Make the batch with the algo"):
        learner.update(batch)
