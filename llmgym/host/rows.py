"""Rows: what a module function sees of one minibatch. Each row is a context with one of its candidates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from llmgym.types import TokenIds

__all__ = ["SCORE", "ModuleFunction", "Output", "RowInputs", "Rows", "read_scores"]

SCORE = "__score"
"""Key of the built-in function: log P(candidate | context)."""

Output = Tensor | Mapping[str, Tensor]
"""What a module function returns: one entry a row along the first axis, or several such by name."""


@dataclass(frozen=True, slots=True, eq=False)
class RowInputs:
    """What a model is given for a minibatch of R rows, as tensors.

    Attributes:
        inputs: the model's arguments by name.
        state_positions: int64 (R,); position, in the model's output, of the state that the candidate follows: the last
            token of the context, or the decoder's first input.
        candidate_ids: int64 (R, C); token ids, padded on the right.
        candidate_mask: bool (R, C); True where there is a token.
    """

    inputs: Mapping[str, Any]
    state_positions: Tensor
    candidate_ids: Tensor
    candidate_mask: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """A minibatch of R rows with what the model said of them, differentiable where the pass is.

    Attributes:
        outputs: the transformers model's output, with logits and the hidden states of all layers.
        given: what the model was given.
        contexts: token ids of each row's context.
        padded_contexts: for each row "input_ids" and "attention_mask" of its context as it was padded; of decoder-only
            models without the last token, which stands in front of the candidate.
        row_indices: places of these rows among all rows of the pass.
    """

    outputs: Any
    given: RowInputs
    contexts: tuple[TokenIds, ...]
    padded_contexts: tuple[Mapping[str, list[int]], ...]
    row_indices: tuple[int, ...]

    def hidden_states(self) -> Tensor:
        """Return the last layer's hidden states of what the candidates were fed through: (R, T, D)."""
        layers = getattr(self.outputs, "decoder_hidden_states", None) or self.outputs.hidden_states
        states: Tensor = layers[-1]
        return states

    def states(self) -> Tensor:
        """Return the last hidden state of every row's context: (R, D)."""
        states = self.hidden_states()
        return states[torch.arange(len(states), device=states.device), self.given.state_positions]

    def next_token_logprobs(self) -> Tensor:
        """Return float32 (R, V): log-probability of every token behind the context."""
        logits = self.outputs.logits
        rows = torch.arange(len(logits), device=logits.device)
        logprobs: Tensor = logits[rows, self.given.state_positions].float().log_softmax(-1)
        return logprobs

    def candidate_logprobs(self) -> Tensor:
        """Return float32 (R, C): log-probability of every candidate token, 0 behind a candidate's end."""
        given = self.given
        num_tokens = given.candidate_ids.shape[1]
        steps = torch.arange(num_tokens, device=given.candidate_ids.device)
        positions = given.state_positions[:, None] + steps
        rows = torch.arange(len(positions), device=positions.device)[:, None]
        # Rows of unlike contexts end at unlike places: what lies behind a row's end is masked below.
        positions = positions.clamp(max=self.outputs.logits.shape[1] - 1)
        logprobs = self.outputs.logits[rows, positions].float().log_softmax(-1)
        picked: Tensor = logprobs.gather(-1, given.candidate_ids[..., None]).squeeze(-1)
        # The mask, not the token's id, tells padding: a real token may have the padding's id.
        return picked.masked_fill(~given.candidate_mask, 0.0)


class ModuleFunction(Protocol):
    """A module that reads something from the model's output, such as a value; made to be an `nn.Module` too."""

    def read(self, rows: Rows, named: Mapping[str, Any]) -> Output:
        """Return a tensor with one entry a row, or several such tensors by name."""
        ...


def read_scores(rows: Rows) -> Tensor:
    """Return float32 (R,): log P(candidate | context) of every row, summed over the candidate's tokens."""
    return rows.candidate_logprobs().sum(-1)
