"""A learner group: several processes, each with a whole learner, that take every update together.

What is learned is what one learner learns, but for rounding: see `llmgym.learner.gradient`. The process that makes the
group is no part of it; it keeps the engine and the environments.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import Tensor

from llmgym.algorithms import Algorithm, Credit
from llmgym.errors import LearnerError
from llmgym.learner.folder import whole_folder
from llmgym.learner.learner import Learner
from llmgym.learner.non_finite import NonFiniteError
from llmgym.learner.ranks.pool import RankPool
from llmgym.learner.ranks.rank import Rank
from llmgym.learner.ranks.worker import Seat
from llmgym.learner.review import Review
from llmgym.learner.settings import OptimizerName
from llmgym.memory import PeakMemory
from llmgym.sync import Canary, Publisher, check_canary
from llmgym.sync.folders import memory_folder
from llmgym.sync.weights import write_weights
from llmgym.types import Acting, Batch, Engine, FloatArray, TokenIds, Tokenizer, Trajectory, Turn

__all__ = ["LearnerGroup", "MakesLearner"]

T = TypeVar("T")


class MakesLearner(Protocol):
    """Makes the learner of one rank: `partial(Learner, model, ...)`, or `partial(Learner.load, folder)`."""

    def __call__(self, *, rank: Rank, device: str | None, num_threads: int) -> Learner:
        """Make it. All ranks make the same, each on its device."""
        ...


@dataclass(frozen=True, slots=True)
class _Facts:
    """What the group knows of its learners without asking."""

    version: int
    algorithm: Algorithm
    max_context_tokens: int
    publishes_adapter: bool
    canary: Canary
    canary_tolerance: float
    acting: Acting


@dataclass(frozen=True, slots=True)
class _Updated:
    """What an update came to in one rank."""

    metrics: dict[str, float]
    skipped: list[NonFiniteError]
    memory_gib: float


class LearnerGroup:
    """Learners that learn as one, in processes of their own; used like a `Learner`.

    Attributes:
        algorithm: the loss, and how often an update takes it.
        version: policy version that was published last; 0 is the model as it was loaded.
        max_context_tokens: longest prompt, with its action, that the model can read.
        canary: what the engine and rank 0 both score after every publication.
        canary_tolerance: largest difference between them that is taken for rounding, in nats.
        acting: how actions are drawn.
        skipped: the steps that the last update left out, where the learners skip what is not finite.
    """

    def __init__(self, make: MakesLearner, ranks: int | RankPool) -> None:
        """Have every rank make its learner.

        Args:
            make: makes it; it is pickled.
            ranks: how many, on GPUs where there are any; or processes that are there already, whose last learners end.

        Raises:
            LearnerError: the learner cannot be made, or a rank died.
        """
        self._pool = RankPool(ranks) if isinstance(ranks, int) else ranks
        try:
            facts: _Facts = self._pool.ask(partial(_seat_learner, make=make))[0]
        except BaseException:
            self._pool.close(is_orderly=False)
            raise
        self.algorithm = facts.algorithm
        self.version = facts.version
        self.max_context_tokens = facts.max_context_tokens
        self.canary, self.canary_tolerance = facts.canary, facts.canary_tolerance
        self.acting = facts.acting
        self.skipped: list[NonFiniteError] = []
        self._weights = _RemoteWeights(self, facts.publishes_adapter)
        self._publisher = Publisher()

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer beside the model.

        Raises:
            LearnerError: the model was given as a module, or has no tokenizer beside it.
        """
        tokenizer: Tokenizer = self.ask_first(attrgetter("tokenizer"))
        return tokenizer

    def ask(self, question: Callable[[Learner], T]) -> T:
        """Ask all learners at once, and return what rank 0 says: for what they only do together.

        Raises:
            LearnerError: a rank died; then all are ended.
            LLMGymError: what a learner raised.
        """
        answer: T = self._pool.ask(partial(_answer, question=question))[0]
        return answer

    def ask_first(self, question: Callable[[Learner], T]) -> T:
        """Ask rank 0 alone; see `ask`."""
        answer: T = self._pool.ask(partial(_answer, question=question), ranks=[0])[0]
        return answer

    def set_algorithm(
        self, algorithm: Algorithm, *, learning_rate: float | None = None, optimizer: OptimizerName | None = None
    ) -> None:
        """Learn with another algorithm from now on; see `Learner.set_algorithm`."""
        self.ask(partial(Learner.set_algorithm, algorithm=algorithm, learning_rate=learning_rate, optimizer=optimizer))
        self.algorithm = algorithm

    def scale_learning_rate(self, factor: float) -> None:
        """Take the next steps at the model's learning rate times a factor; see `Learner.scale_learning_rate`."""
        self.ask(partial(Learner.scale_learning_rate, factor=factor))

    def values(self, trajectories: Sequence[Trajectory], *, head: str = "value") -> list[FloatArray]:
        """Return what a head says of every state of every trajectory, each rank of its share; see `Learner.values`."""
        return self.ask(partial(Learner.values, trajectories=trajectories, head=head))

    def logprobs(self, turns: Sequence[Turn], *, credit: Credit = "turn") -> FloatArray:
        """Return float32 (num_units,): log-probabilities now, each rank of its share; see `Learner.logprobs`."""
        return self.ask(partial(Learner.logprobs, turns=turns, credit=credit))

    def review(self, trajectories: Sequence[Trajectory], *, head: str = "value") -> Review:
        """Return what `values` and `logprobs` do, each rank of its share; see `Learner.review`."""
        return self.ask(partial(Learner.review, trajectories=trajectories, head=head))

    def action_logprobs(self, turns: Sequence[Turn], *, beta: float = 0.0) -> list[FloatArray]:
        """Return the log-probabilities of all actions as rank 0 has them; see `Learner.action_logprobs`."""
        return self.ask_first(partial(Learner.action_logprobs, turns=turns, beta=beta))

    def score(self, contexts: Sequence[Sequence[int]], candidates: Sequence[Sequence[TokenIds]]) -> list[FloatArray]:
        """Return log P(candidate | context) as rank 0 has it; see `Learner.score`."""
        return self.ask_first(partial(Learner.score, contexts=contexts, candidates=candidates))

    def update(self, batch: Batch) -> dict[str, float]:
        """Learn from a batch together, and return metrics of all of it; see `Learner.update`.

        Every rank draws the same minibatches and computes its share of each, shared out by tokens. Beside the metrics
        of `Learner.update` there is learners_peak_memory_gib: that of the rank that had most at once, see `PeakMemory`.
        """
        try:
            answers: list[_Updated] = self._pool.ask(partial(_answer, question=partial(_update, batch=batch)))
        except NonFiniteError as error:
            self.skipped = self.ask_first(attrgetter("skipped"))
            _point_to_turns([error, *self.skipped], batch)
            raise
        self.skipped = answers[0].skipped
        _point_to_turns(self.skipped, batch)
        return {**answers[0].metrics, "learners_peak_memory_gib": max(answer.memory_gib for answer in answers)}

    def publish(self, engine: Engine, *, version: int | None = None) -> dict[str, float]:
        """Swap the weights of rank 0 into a running engine, and check them on the canary; see `Learner.publish`."""
        published = self.version + 1 if version is None else version
        try:
            self._publisher.publish(engine, self._weights, published)
        finally:
            self._weights.clear()
        gap = check_canary(engine, self.score, self.canary, version=published, tolerance=self.canary_tolerance)
        self.ask(partial(_set_version, version=published))
        self.version = published
        return {"canary_gap": gap}

    def save(self, folder: str | Path) -> None:
        """Write a checkpoint, whole or not at all; any number of ranks, and a `Learner` alone, can go on from it."""
        with whole_folder(folder) as unfinished:
            self.write(unfinished)

    def write(self, folder: Path) -> None:
        """Write the files of a checkpoint into a folder, once all ranks have shown that they hold the same weights.

        Raises:
            LearnerError: they do not.
        """
        digests = self._pool.ask(partial(_answer, question=_digest))
        if len(set(digests)) > 1:
            odd = next(rank for rank, digest in enumerate(digests) if digest != digests[0])
            raise LearnerError(
                f"Expected all learner ranks to hold the same weights, but those of rank {odd} differ from rank 0's. "
                "Do not go on with this run; a head or an algorithm that draws at random of its own is a usual cause."
            )
        self.ask_first(partial(Learner.write, folder=folder))

    def close(self) -> None:
        """End the processes; a second call does nothing."""
        self._publisher.close()
        self._pool.close()


class _RemoteWeights:
    """The weights of rank 0, through files in memory."""

    def __init__(self, group: LearnerGroup, publishes_adapter: bool) -> None:
        self.publishes_adapter = publishes_adapter
        self._group = group
        self._folder: str | None = None

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every weight by its Hugging Face name."""
        from safetensors import safe_open

        self._folder = memory_folder()
        file = str(Path(self._folder) / "weights.safetensors")
        self._group.ask_first(partial(_write_weights, file=file))
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - a safetensors file is not a mapping
                yield name, tensors.get_tensor(name)

    def write_adapter(self, folder: str) -> None:
        """Write the adapter into a folder, in PEFT's format."""
        self._group.ask_first(partial(_write_adapter, folder=folder))

    def clear(self) -> None:
        """Remove what weights were handed over in."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def _seat_learner(seat: Seat, *, make: MakesLearner) -> _Facts:
    """Make a rank's learner, and return what is known of it."""
    learner = seat.held = make(rank=seat.rank, device=seat.device, num_threads=seat.num_threads)
    return _Facts(
        version=learner.version,
        algorithm=learner.algorithm,
        max_context_tokens=learner.max_context_tokens,
        publishes_adapter=learner.policy.publishes_adapter,
        canary=learner.canary,
        canary_tolerance=learner.canary_tolerance,
        acting=learner.acting,
    )


def _answer(seat: Seat, *, question: Callable[[Learner], Any]) -> Any:
    """Ask a rank's learner."""
    return question(seat.held)


def _update(learner: Learner, *, batch: Batch) -> _Updated:
    memory = PeakMemory()
    metrics = learner.update(batch)
    return _Updated(metrics, learner.skipped, memory.gib)


def _point_to_turns(errors: Sequence[NonFiniteError], batch: Batch) -> None:
    """Let errors that came from another process name the turns of this one."""
    for error in errors:
        error.set_turns(batch.turns, error.turn_indices)


def _set_version(learner: Learner, *, version: int) -> None:
    learner.version = version


def _write_weights(learner: Learner, *, file: str) -> None:
    write_weights(learner.policy.named_weights(), file)


def _write_adapter(learner: Learner, *, folder: str) -> None:
    learner.policy.write_adapter(folder)


def _digest(learner: Learner) -> str:
    """Return the SHA-256 of all weights that are learned."""
    digest = hashlib.sha256()
    for parameter in learner.policy.parameters():
        if parameter.requires_grad:
            digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
