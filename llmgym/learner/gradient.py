"""The gradient of a minibatch: taken part by part, by one rank or by several, and added up. Knows no optimizer.

A minibatch is computed in micro-batches, and its rows are shared out among the ranks. The loss of each part is divided
by what the whole minibatch holds, over all parts of all ranks (`Targets.num_units`, `Targets.num_trajectories`): before
anything is reduced, and by the same numbers everywhere. So gradients and metrics are summed over ranks and never
averaged, and come out alike for any number of ranks, however ragged the rows.
"""

# Annotations are not postponed here: DistributedDataParallel reads those of the hook that it is given.

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed import GradBucket, all_reduce  # type: ignore[attr-defined]
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from llmgym.algorithms.algorithm import Algorithm, ReadsText, credit_of
from llmgym.algorithms.units import Targets
from llmgym.learner.branch import IntArray
from llmgym.learner.evaluation import evaluate
from llmgym.learner.minibatch import Ledger
from llmgym.learner.packing import Pack, build_pack
from llmgym.learner.policy import Policy
from llmgym.learner.ranks.rank import ALONE, Rank
from llmgym.learner.reading import Reading, build_reading
from llmgym.learner.row import Row, group_rows
from llmgym.types import Acting, FloatArray

__all__ = ["Gradients", "Met", "Minibatch"]


@dataclass(frozen=True, slots=True, eq=False)
class Met:
    """What the policy said of units that were computed, before the step that they take part in.

    Attributes:
        units: int64 (B,); their positions in the batch.
        logprobs: float32 (B,); log-probability of what was drawn.
        values: float32 (B,); of the head "value"; None without one.
    """

    units: IntArray
    logprobs: FloatArray
    values: FloatArray | None


@dataclass(frozen=True, slots=True, eq=False)
class Minibatch:
    """What a minibatch came to.

    Attributes:
        metrics: the loss and the algorithm's metrics, of the whole minibatch; the same on all ranks.
        met: what this rank computed, a micro-batch each.
    """

    metrics: dict[str, float]
    met: list[Met]


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """A micro-batch, ready to be computed.

    Attributes:
        pack: its rows.
        actions: int64 (num_turns,); the actions taken.
        targets: what was recorded of its units.
        reading: the tokens that are to be foreseen, if any.
        weight: 1, or 0 if it only stands in.
    """

    pack: Pack
    actions: Tensor
    targets: Targets
    reading: Reading | None
    weight: float


@dataclass(frozen=True, slots=True, eq=False)
class _Told:
    """What a part came to, without gradients: metrics, scalars by name, and float32 (B,) of its units."""

    metrics: dict[str, Tensor]
    logprobs: Tensor
    values: Tensor | None


class _PartLoss(nn.Module):
    """The loss of a part as a module, which is what DistributedDataParallel wraps."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, part: _Part, algorithm: Algorithm, acting: Acting) -> tuple[Tensor, _Told]:
        """Return the loss, and what was told. Nothing else may have a gradient: it would have to be taken, too."""
        outputs = evaluate(
            self.policy, part.pack, acting, part.actions, credit=credit_of(algorithm), reading=part.reading
        )
        loss, metrics = algorithm.loss(outputs, part.targets)
        values = outputs.heads.get("value")
        told = _Told(
            {name: part.weight * value.detach() for name, value in {"loss": loss, **metrics}.items()},
            outputs.logprobs.detach(),
            None if values is None else values.detach(),
        )
        return part.weight * loss, told


class Gradients:
    """Takes the gradients of minibatches, together with the other ranks.

    Attributes:
        policy: what learns.
        rank: which this is.
    """

    def __init__(self, policy: Policy, rank: Rank = ALONE) -> None:
        """Prepare to take them.

        Args:
            policy: what learns; with several ranks, all take over the weights of rank 0.
            rank: which this is.
        """
        self.policy, self.rank = policy, rank
        self._loss = _PartLoss(policy)
        self._distributed: DistributedDataParallel | None = None
        if rank.count > 1:
            # Heads that an algorithm does not ask get no gradient. Buffers never change, and gloo sends no booleans.
            self._distributed = DistributedDataParallel(
                self._loss, broadcast_buffers=False, find_unused_parameters=True
            )
            self._distributed.register_comm_hook(None, _add_up)

    def take(
        self,
        rows: Sequence[Row],
        ledger: Ledger,
        whole: Targets,
        *,
        algorithm: Algorithm,
        acting: Acting,
        max_tokens: int,
    ) -> Minibatch:
        """Add the gradient of a minibatch's loss to the gradients of the policy's parameters.

        Args:
            rows: of the whole minibatch; this rank computes its share.
            ledger: what was recorded of the batch.
            whole: what is known of the minibatch, as `Ledger.whole` returns it.
            algorithm: the loss.
            acting: how actions are drawn.
            max_tokens: of one forward pass, padding included.
        """
        share = self.rank.share(rows)
        # Every rank takes part in the reduction: one without rows computes the shortest row, and counts it as nothing.
        groups = group_rows(share or [min(rows, key=lambda row: (row.num_tokens, row.first_state))], max_tokens)
        sums: dict[str, Tensor] = {}
        met = []
        for number, group in enumerate(groups, start=1):
            part = self._part(group, ledger, whole, algorithm=algorithm, weight=1.0 if share else 0.0)
            with self._only_added(is_last=number == len(groups)):
                loss, told = (self._distributed or self._loss)(part, algorithm, acting)
                loss.backward()
            for name, value in told.metrics.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value
            if share:
                met.append(_met(ledger.units(part.pack.state_indices), told))
        return Minibatch(self.rank.total({name: float(value) for name, value in sums.items()}), met)

    def _part(
        self, rows: Sequence[Row], ledger: Ledger, whole: Targets, *, algorithm: Algorithm, weight: float
    ) -> _Part:
        """Make a micro-batch ready."""
        device = self.policy.device
        pack = build_pack(rows, dtype=self.policy.dtype, device=device)
        reads = isinstance(algorithm, ReadsText) and algorithm.reads_text
        return _Part(
            pack=pack,
            actions=torch.from_numpy(ledger.actions[pack.state_indices]).to(device),
            targets=ledger.part(pack.state_indices, whole),
            reading=build_reading(rows, pack.input_ids.shape[1], device=device) if reads else None,
            weight=weight,
        )

    def _only_added(self, *, is_last: bool) -> AbstractContextManager[None]:
        """Let gradients be added up in this rank, and reduced over ranks with the last micro-batch."""
        return nullcontext() if self._distributed is None or is_last else self._distributed.no_sync()


def _met(units: IntArray, told: _Told) -> Met:
    """Return what was told, as numpy arrays."""
    return Met(units, told.logprobs.cpu().numpy(), None if told.values is None else told.values.cpu().numpy())


def _add_up(state: object, bucket: GradBucket) -> Future[Tensor]:
    """Sum gradients over ranks: each is of a loss that was divided by what the whole minibatch holds."""
    reduced = all_reduce(bucket.buffer(), async_op=True).get_future()
    total: Future[Tensor] = reduced.then(lambda done: done.value()[0])
    return total
