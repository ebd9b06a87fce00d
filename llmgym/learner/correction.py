"""Importance correction: turns that an older policy took, weighted as if the policy that learns had taken them.

A weight is w = pi(drawn) / mu(drawn), of the policy that learns at the start of an update and of the one that drew. It
is cut off, since a few large ones would drown the rest:

- "truncated": min(w, limit), as rho of IMPALA (Espeholt et al. 2018, section 4.1, https://arxiv.org/abs/1802.01561);
- "masked": w from 1 / limit to limit and 0 elsewhere: what differs too much is left out of the policy's loss.

The weight stands before the loss. So the ratio inside of it is measured against the policy at the start of the update,
and not against the one that drew (decoupled PPO, Hilton, Cobbe and Schulman 2022, https://arxiv.org/abs/2110.00641):
else a clip would count how old the turns are as if the update had moved so far. Every unit has a weight of its own: how
likely the states are that it was drawn in is not corrected for.

Knows neither engines nor collectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Literal

import numpy as np
import numpy.typing as npt

from llmgym.algorithms.units import Credit
from llmgym.learner.minibatch import behaviour_logprobs, units_of
from llmgym.types import NO_VERSION, Batch, FloatArray, Turn

__all__ = ["Correction", "correct_stale", "importance_weights"]


@dataclass(frozen=True, slots=True)
class Correction:
    """How weights are cut off.

    Attributes:
        kind: "truncated" or "masked".
        limit: largest weight that counts as it is, at least 1; larger is less biased, and noisier.
    """

    kind: Literal["truncated", "masked"] = "truncated"
    limit: float = 2.0


def correct_stale(
    batch: Batch,
    version: int,
    logprobs: Callable[[Sequence[Turn]], FloatArray],
    *,
    credit: Credit,
    correction: Correction,
) -> Batch:
    """Weight the units of a batch that an older policy drew; without any, return it with metrics only.

    Units that the policy of this version drew, or none (demonstrations), have weight 1 and keep their behaviour
    log-probability.

    Args:
        batch: what is about to be learned from.
        version: policy version of the learner, before its first step on the batch.
        logprobs: what this policy gives to what turns drew: float32 (num_units,) of these turns; asked once, for those
            that are stale.
        credit: what a unit is.
        correction: how weights are cut off.

    Returns:
        the batch with `weights` and `proximal_logprobs`, and the metrics weight (mean over all units) and
        weight_clipped (share of all units whose weight was cut off).
    """
    is_stale_turn = [NO_VERSION < turn.policy_version < version for turn in batch.turns]
    if not any(is_stale_turn):
        return replace(batch, metrics={**batch.metrics, "weight": 1.0, "weight_clipped": 0.0})
    is_stale = np.repeat(is_stale_turn, units_of(batch.turns, credit))
    proximal = behaviour_logprobs(batch.turns, credit)
    now = logprobs(list(compress(batch.turns, is_stale_turn)))
    log_weights = now - proximal[is_stale]
    weights: FloatArray = np.ones_like(proximal)
    weights[is_stale] = importance_weights(log_weights, correction)
    proximal[is_stale] = now
    clipped = np.count_nonzero(_is_cut_off(log_weights, correction)) / len(weights)
    metrics = {**batch.metrics, "weight": float(weights.mean(dtype=np.float64)), "weight_clipped": clipped}
    return replace(batch, weights=weights, proximal_logprobs=proximal, metrics=metrics)


def importance_weights(log_weights: FloatArray, correction: Correction) -> FloatArray:
    """Return the weights, cut off.

    Args:
        log_weights: float32 (num_units,); log pi(drawn) - log mu(drawn).
        correction: how they are cut off.

    Returns:
        float32 (num_units,); from 0 to the limit.

    >>> three = np.log(np.array([0.25, 1.5, 4.0], np.float32))
    >>> importance_weights(three, Correction("truncated", 2.0)).tolist()
    [0.25, 1.5, 2.0]
    >>> importance_weights(three, Correction("masked", 2.0)).tolist()
    [0.0, 1.5, 0.0]
    """
    # Cut off before the exponential, which a large difference would overflow.
    bounded: FloatArray = np.exp(np.minimum(log_weights, np.log(correction.limit))).astype(np.float32)
    if correction.kind == "masked":
        bounded[_is_cut_off(log_weights, correction)] = 0.0
    return bounded


def _is_cut_off(log_weights: FloatArray, correction: Correction) -> npt.NDArray[np.bool_]:
    """Return bool (num_units,): whether each weight is beyond what counts as it is."""
    distance = np.abs(log_weights) if correction.kind == "masked" else log_weights
    beyond: npt.NDArray[np.bool_] = distance > np.log(correction.limit)
    return beyond
