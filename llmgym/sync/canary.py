"""The canary: a few contexts and candidates that engine and learner both score after a swap. Numpy only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from llmgym.errors import SyncError
from llmgym.types import Engine, FloatArray, TokenIds

__all__ = ["Canary", "Scorer", "check_canary", "random_canary"]

Scorer = Callable[[Sequence[TokenIds], Sequence[tuple[TokenIds, ...]]], list[FloatArray]]
"""The learner's side: contexts and candidates as token ids to float32 (num_candidates,) a context, log P summed."""


@dataclass(frozen=True, slots=True)
class Canary:
    """What both sides score.

    Attributes:
        contexts: token ids, at least one context.
        candidates: one tuple of candidates (token ids) a context.
    """

    contexts: tuple[TokenIds, ...]
    candidates: tuple[tuple[TokenIds, ...], ...]


def random_canary(vocab_size: int, *, max_tokens: int = 80) -> Canary:
    """Make a canary of arbitrary tokens, the same for the same vocabulary.

    Its contexts are short, of two cache blocks, and longer, so that blocks left over from older weights are read
    back and found out.

    Args:
        vocab_size: tokens are drawn below it.
        max_tokens: longest context with its candidate.
    """
    rng = np.random.default_rng(0)
    lengths = [min(length, max_tokens - 3) for length in (7, 64, 77)]

    def draw(length: int) -> TokenIds:
        return tuple(int(token) for token in rng.integers(vocab_size, size=length))

    contexts = tuple(draw(length) for length in lengths)
    candidates = []
    for _ in contexts:
        first, second, third = draw(3), draw(2), draw(1)
        candidates.append((first, (first[0], *second), third))
    return Canary(contexts, tuple(candidates))


def check_canary(engine: Engine, scorer: Scorer, canary: Canary, *, version: int, tolerance: float) -> float:
    """Score the canary on both sides, and return the largest difference in nats.

    Args:
        engine: after the swap.
        scorer: of the learner whose weights were swapped in.
        canary: what to score.
        version: policy version that the engine should hold now.
        tolerance: largest difference that is taken for rounding, in nats.

    Raises:
        SyncError: the engine holds another version, or the scores differ by more than tolerance.
    """
    if engine.version != version:
        raise SyncError(
            f"Expected the engine to hold policy version {version} after the swap, but it says {engine.version}. "
            "The swap did not take place; look at the engine's log, and do not go on with this run."
        )
    engine_scores = np.concatenate(list(engine.score(canary.contexts, canary.candidates)))
    learner_scores = np.concatenate(scorer(canary.contexts, canary.candidates))
    differences = np.abs(engine_scores - learner_scores)
    worst = int(np.argmax(differences))  # the first NaN, where there is one
    if not differences[worst] <= tolerance:
        raise SyncError(
            f"Expected engine and learner to agree within {tolerance:g} after the swap to policy version {version}, "
            f"but on the canary the engine scores {engine_scores[worst]:.6f} and the learner "
            f"{learner_scores[worst]:.6f}. The engine does not hold the learner's weights: do not go on with this run. "
            "Check that both started from the same model and dtype; where they compute in bfloat16, raise the canary "
            "tolerance."
        )
    return float(differences[worst])
