"""Reading: where each token of a prompt is predicted, for learning to foresee the text itself. Numpy and torch only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from llmgym.learner.row import Row

__all__ = ["Reading", "build_reading"]


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """The tokens that the prompts of a pack's N states add, each to the prompt before it in its row: M in all.

    Attributes:
        indices: int64 (M,); where each is predicted, in the pack's flattened R*T tokens.
        token_ids: int64 (M,); the tokens.
        states: int64 (M,); whose prompt adds each, from 0 to N - 1; ascending.
        counts: int64 (N,); how many each adds.
    """

    indices: Tensor
    token_ids: Tensor
    states: Tensor
    counts: Tensor

    def mean_logprobs(self, logits: Tensor) -> Tensor:
        """Return float32 (N,): the mean log-probability of what each prompt adds, 0 where it adds nothing.

        Args:
            logits: float32 (M, V); at `indices`.
        """
        logprobs = -torch.nn.functional.cross_entropy(logits, self.token_ids, reduction="none")
        sums = logprobs.new_zeros(len(self.counts)).index_add(0, self.states, logprobs)
        return sums / self.counts.clamp(min=1)


def build_reading(rows: Sequence[Row], width: int, *, device: torch.device | str = "cpu") -> Reading:
    """Find the tokens that each state's prompt adds; nothing predicts a row's first token, so it is left out.

    Args:
        rows: of a pack, in its order.
        width: of the pack: tokens of a padded row.
        device: where to put the tensors.
    """
    indices, token_ids, counts = [], [], []
    for number, row in enumerate(rows):
        read = np.arange(1, row.prompt_lengths[-1])
        indices.append(number * width + read - 1)
        token_ids.append(row.trunk_ids[read])
        counts.append(np.diff(row.prompt_lengths, prepend=1))
    num_added = np.concatenate(counts)

    def to_tensor(array: np.ndarray[tuple[int, ...], np.dtype[np.integer]]) -> Tensor:
        return torch.from_numpy(array.astype(np.int64)).to(device)

    return Reading(
        indices=to_tensor(np.concatenate(indices)),
        token_ids=to_tensor(np.concatenate(token_ids)),
        states=to_tensor(np.repeat(np.arange(len(num_added)), num_added)),
        counts=to_tensor(num_added),
    )
