"""Who learns in a run: one learner in this process, or a group of them in their own. Imports torch when asked only."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from llmgym.algorithms import Algorithm, Credit
from llmgym.learner.non_finite import NonFiniteError
from llmgym.learner.settings import LearnerSettings, OptimizerName
from llmgym.types import Acting, Batch, Engine, FloatArray, Tokenizer, Trajectory, Turn

if TYPE_CHECKING:
    from llmgym.learner.group import MakesLearner
    from llmgym.learner.review import Review

__all__ = ["RunLearner", "open_learner"]


class RunLearner(Protocol):
    """What a run needs of its learner; see `llmgym.learner.Learner`.

    Attributes:
        skipped: the steps that the last update left out.
    """

    skipped: list[NonFiniteError]

    @property
    def acting(self) -> Acting:
        """How actions are drawn."""
        ...

    @property
    def algorithm(self) -> Algorithm:
        """The loss, and how often an update takes it."""
        ...

    @property
    def max_context_tokens(self) -> int:
        """Longest prompt, with its action, that the model can read."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer beside the model."""
        ...

    @property
    def version(self) -> int:
        """Policy version that was published last."""
        ...

    def set_algorithm(
        self, algorithm: Algorithm, *, learning_rate: float | None = None, optimizer: OptimizerName | None = None
    ) -> None:
        """Learn with another algorithm from now on."""
        ...

    def scale_learning_rate(self, factor: float) -> None:
        """Take the next steps at the model's learning rate times a factor."""
        ...

    def values(self, trajectories: Sequence[Trajectory]) -> list[FloatArray]:
        """Return the value of every state of every trajectory."""
        ...

    def logprobs(self, turns: Sequence[Turn], *, credit: Credit = "turn") -> FloatArray:
        """Return the log-probability now of all that each turn drew, or of every draw of it."""
        ...

    def review(self, trajectories: Sequence[Trajectory]) -> Review:
        """Return what `values` and `logprobs` do, from one pass."""
        ...

    def action_logprobs(self, turns: Sequence[Turn], *, beta: float = 0.0) -> list[FloatArray]:
        """Return the log-probabilities actions would be drawn from now, guided by heads beta times."""
        ...

    def update(self, batch: Batch) -> dict[str, float]:
        """Learn from a batch, and return metrics."""
        ...

    def publish(self, engine: Engine, *, version: int | None = None) -> dict[str, float]:
        """Swap the weights into a running engine, and check that it holds them."""
        ...

    def save(self, folder: str | Path) -> None:
        """Write a checkpoint, whole or not at all."""
        ...

    def close(self) -> None:
        """Free what the learner holds; a second call does nothing."""
        ...


@contextmanager
def open_learner(
    make: MakesLearner, settings: LearnerSettings, log_dir: Path, *, is_apart: bool = False
) -> Iterator[RunLearner]:
    """Have a learner here, or in as many processes as the settings say, while the context lasts.

    A process that dies ends the context, whatever is being done in it: that is interrupted as by Ctrl-C.

    Args:
        make: makes the learner of one rank.
        settings: of the learner.
        log_dir: where the output of the processes goes.
        is_apart: whether a single learner has a process of its own, too, and leaves a core to this one: two threads of
            one process that compute at once wait for each other, since only one of them runs Python at a time.

    Raises:
        LearnerError: it cannot be made, or a process died.
    """
    from llmgym.learner.ranks.rank import ALONE

    if settings.num_ranks == 1 and not is_apart:
        with closing(make(rank=ALONE, device=None, num_threads=settings.num_threads)) as learner:
            yield learner
        return
    from llmgym.learner.group import LearnerGroup
    from llmgym.learner.ranks.pool import RankPool
    from llmgym.learner.threads import default_num_threads

    num_threads = settings.num_threads
    if is_apart and num_threads == 0:
        num_threads = max(1, (default_num_threads() - 1) // settings.num_ranks)
    with _interruptible() as interrupt:
        pool = RankPool(settings.num_ranks, num_threads=num_threads, log_dir=log_dir, on_death=interrupt)
        with closing(LearnerGroup(make, pool)) as group:
            try:
                yield group
            except KeyboardInterrupt:
                pool.check()
                raise


@contextmanager
def _interruptible() -> Iterator[Callable[[], None]]:
    """Yield a function by which another thread interrupts this one, if it is the main one, in the midst of a wait.

    Not by Ctrl-C's own signal, which is ignored in a shell's background.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    interrupted = threading.get_ident()
    before = signal.signal(signal.SIGUSR2, signal.default_int_handler)
    try:
        yield lambda: signal.pthread_kill(interrupted, signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR2, before)
