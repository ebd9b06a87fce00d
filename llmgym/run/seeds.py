"""Seeds of episodes: those that are trained on, and those that never are."""

from __future__ import annotations

import numpy as np

__all__ = ["HELD_OUT_SEED", "training_seed"]

HELD_OUT_SEED = 2**30
"""Episode seeds from here on are for evaluation; those of training are below."""


def training_seed(seed: int, *stream: int) -> int:
    """Return the seed of a training episode, below `HELD_OUT_SEED`, from a run's seed and what names the episode."""
    return int(np.random.SeedSequence([seed, *stream]).generate_state(1)[0]) % HELD_OUT_SEED
