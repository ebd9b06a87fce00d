"""How much faster the learner is with packed rows than with a row for every candidate or every turn.

The rivals compute the same log-probabilities and gradients, in micro-batches of the same size:

- actions, many_actions: many contexts with six actions each, or 42. Rival: every action a row of its own behind its
  context, through transformers' own forward pass.
- episodes: prompts that only grow. Rival: every turn a row of its own, its actions packed.

Padding is measured on episodes of all lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmgym.algorithms import PPO
from llmgym.bench.report import Report, best_seconds, make_report
from llmgym.learner.evaluation import evaluate_scores
from llmgym.learner.learner import Learner
from llmgym.learner.loading import load_model
from llmgym.learner.packing import build_pack
from llmgym.learner.policy import Policy
from llmgym.learner.row import Row, build_rows, group_rows
from llmgym.learner.threads import at_work, default_num_threads
from llmgym.types import Batch, TokenIds, Turn

__all__ = ["Workload", "run"]

_ACTIONS: tuple[TokenIds, ...] = ((10, 11), (10, 12), (13, 14), (15, 16), (17,), (18,))
"""As a tokenizer without whole actions writes turn left, turn right, go forward, pick up, drop, toggle."""
_MANY_ACTIONS: tuple[TokenIds, ...] = tuple((20 + verb, 30 + thing) for verb in range(6) for thing in range(7))
"""Six verbs, each with seven things."""


Way = Callable[[bool], Tensor]
"""Scores, with their gradient taken on request."""


@dataclass(frozen=True, slots=True)
class Workload:
    """How much is measured.

    Attributes:
        num_contexts: contexts with six actions each; an eighth of them with 42.
        context_tokens: tokens of each.
        num_episodes: episodes of growing prompts.
        num_turns: turns of each.
        turn_tokens: tokens that a turn adds to its prompt.
        hidden_size: width of the model.
        num_layers: blocks of the model.
        max_tokens: of one forward pass, padding included.
        repeats: how often each time is taken; the least counts.
    """

    num_contexts: int = 64
    context_tokens: int = 90
    num_episodes: int = 16
    num_turns: int = 16
    turn_tokens: int = 45
    hidden_size: int = 128
    num_layers: int = 4
    max_tokens: int = 4096
    repeats: int = 3


def run(workload: Workload | None = None) -> Report:
    """Measure, and return seconds, ratios, and the largest difference between the two ways, in nats.

    Args:
        workload: how much; the default takes about a minute on two cores.
    """
    work = workload or Workload()
    with at_work(default_num_threads()):
        figures = _measure_actions("actions", _ACTIONS, work.num_contexts, work)
        figures |= _measure_actions("many_actions", _MANY_ACTIONS, max(1, work.num_contexts // 8), work)
        figures |= _measure_episodes(work) | _measure_update(work) | _measure_padding(work)
    return make_report(figures)


def _measure_actions(name: str, actions: Sequence[TokenIds], num_contexts: int, work: Workload) -> dict[str, float]:
    """Time packed actions against a row per action."""
    rng = np.random.default_rng(0)
    contexts = [rng.integers(20, 1024, size=work.context_tokens).astype(np.int32) for _ in range(num_contexts)]
    plain, policy = _model(work), Policy(load_model(_model(work)), {}, None)
    rows = build_rows(contexts, [tuple(actions)] * len(contexts))

    def packed(backward: bool) -> Tensor:
        return _score_rows(policy, rows, work, backward)

    def rival(backward: bool) -> Tensor:
        return _score_alone(plain, contexts, actions, max_tokens=work.max_tokens, backward=backward)

    difference = (packed(False) - rival(False)).abs().max()
    times = _times(packed, rival, work.repeats)
    return {
        f"{name}_packed_forward_seconds": times[0],
        f"{name}_row_per_action_forward_seconds": times[1],
        f"{name}_forward_ratio_row_per_action_over_packed": times[1] / times[0],
        f"{name}_packed_seconds": times[2],
        f"{name}_row_per_action_seconds": times[3],
        f"{name}_ratio_row_per_action_over_packed": times[3] / times[2],
        f"{name}_largest_difference_nats": float(difference),
    }


def _measure_episodes(work: Workload) -> dict[str, float]:
    """Time episodes packed whole against a row per turn."""
    policy = Policy(load_model(_model(work)), {}, None)
    prompts = [turn.prompt_ids for turn in _turns(work)]
    whole = build_rows(prompts, [_ACTIONS] * len(prompts))
    apart = [replace(build_rows([prompt], [_ACTIONS])[0], first_state=n) for n, prompt in enumerate(prompts)]

    def packed(backward: bool) -> Tensor:
        return _score_rows(policy, whole, work, backward)

    def rival(backward: bool) -> Tensor:
        return _score_rows(policy, apart, work, backward)

    difference = (packed(False) - rival(False)).abs().max()
    times = _times(packed, rival, work.repeats)
    return {
        "episodes_packed_forward_seconds": times[0],
        "episodes_row_per_turn_forward_seconds": times[1],
        "episodes_forward_ratio_row_per_turn_over_packed": times[1] / times[0],
        "episodes_packed_seconds": times[2],
        "episodes_row_per_turn_seconds": times[3],
        "episodes_ratio_row_per_turn_over_packed": times[3] / times[2],
        "episodes_largest_difference_nats": float(difference),
    }


def _measure_update(work: Workload) -> dict[str, float]:
    """Time one epoch of PPO over the episodes, optimizer included, and building its rows and packs alone."""
    algorithm = PPO(epochs=1, minibatch_turns=128)
    learner = Learner(_model(work), algorithm=algorithm, max_tokens_per_microbatch=work.max_tokens)
    turns = _turns(work)
    advantages = np.random.default_rng(1).normal(size=len(turns)).astype(np.float32)
    batch = Batch(tuple(turns), advantages, advantages, np.zeros_like(advantages))
    prompts = [turn.prompt_ids for turn in turns]

    def build() -> list[Any]:
        rows = build_rows(prompts, [_ACTIONS] * len(prompts))
        return [build_pack(group) for group in group_rows(rows, work.max_tokens)]

    update_seconds, build_seconds = best_seconds(lambda: learner.update(batch), build, repeats=work.repeats)
    return {
        "update_turns_per_second": len(turns) / update_seconds,
        "packing_share_of_update": build_seconds / update_seconds,
    }


def _measure_padding(work: Workload) -> dict[str, float]:
    """Return the share of the tokens computed that are padding, over episodes of one turn to all."""
    turns = _turns(work)
    lengths = [1 + number % work.num_turns for number in range(work.num_episodes)]
    kept = [turns[n * work.num_turns + turn] for n, length in enumerate(lengths) for turn in range(length)]
    rows = build_rows([turn.prompt_ids for turn in kept], [_ACTIONS] * len(kept))
    computed = sum(build_pack(group).input_ids.numel() for group in group_rows(rows, work.max_tokens))
    return {"padding_share": 1.0 - sum(row.num_trunk + row.num_fed for row in rows) / computed}


def _times(packed: Way, rival: Way, repeats: int) -> tuple[float, float, float, float]:
    """Return seconds of packed and rival forward, then of both forward and backward."""
    with torch.no_grad():
        forward = best_seconds(partial(packed, False), partial(rival, False), repeats=repeats)
    both = best_seconds(partial(packed, True), partial(rival, True), repeats=repeats)
    return forward[0], forward[1], both[0], both[1]


def _score_rows(policy: Policy, rows: Sequence[Row], work: Workload, backward: bool) -> Tensor:
    """Return float32 (num_states, num_actions): scores of packed rows, their gradient taken on request."""
    policy.zero_grad(set_to_none=True)
    result = torch.zeros(sum(row.num_states for row in rows), rows[0].branches[0].num_candidates)
    for group in group_rows(rows, work.max_tokens):
        pack = build_pack(group)
        scores = evaluate_scores(policy, pack)
        if backward:
            scores.sum().backward()  # type: ignore[no-untyped-call]
        result[torch.from_numpy(pack.state_indices)] = scores.detach()
    return result


def _score_alone(
    model: Any,
    contexts: Sequence[np.ndarray[Any, np.dtype[np.int32]]],
    actions: Sequence[TokenIds],
    *,
    max_tokens: int,
    backward: bool,
) -> Tensor:
    """Return the same scores from one row per action; padding stands behind, so that no mask is needed."""
    model.zero_grad(set_to_none=True)
    sequences = [[*context.tolist(), *action] for context in contexts for action in actions]
    num_context, width = len(contexts[0]), len(contexts[0]) + max(len(action) for action in actions)
    lengths = torch.tensor([len(action) for action in actions]).repeat(len(contexts))
    input_ids = torch.tensor([[*sequence, *[0] * (width - len(sequence))] for sequence in sequences])
    result = torch.zeros(len(sequences))
    num_rows = max(1, max_tokens // width)
    for start in range(0, len(sequences), num_rows):
        part = slice(start, start + num_rows)
        hidden = model.base_model(input_ids=input_ids[part], use_cache=False).last_hidden_state
        logprobs = torch.log_softmax(model.lm_head(hidden[:, num_context - 1 : -1]), dim=-1)
        per_token = logprobs.gather(2, input_ids[part, num_context:, None]).squeeze(2)
        is_action = torch.arange(per_token.shape[1]) < lengths[part][:, None]
        scores = (per_token * is_action).sum(1)
        if backward:
            scores.sum().backward()  # type: ignore[no-untyped-call]
        result[part] = scores.detach()
    return result.view(len(contexts), len(actions))


def _turns(work: Workload) -> list[Turn]:
    """Make episodes whose prompts only grow."""
    rng = np.random.default_rng(2)
    turns = []
    for _ in range(work.num_episodes):
        tokens = rng.integers(20, 1024, size=work.num_turns * work.turn_tokens).astype(np.int32)
        for turn in range(work.num_turns):
            prompt = tokens[: (turn + 1) * work.turn_tokens]
            turns.append(Turn(prompt, _ACTIONS, turn % len(_ACTIONS), -1.8, 0.0, False, False, 0))
    return turns


def _model(work: Workload) -> Any:
    """Make the Llama that is measured, the same every time."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=1024,
        hidden_size=work.hidden_size,
        intermediate_size=work.hidden_size * 11 // 4,
        num_hidden_layers=work.num_layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()
