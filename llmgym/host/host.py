"""The host: named models, each in this process or in several of its own, asked through one object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from llmgym.errors import HostError, did_you_mean
from llmgym.host.forward import PassResult
from llmgym.host.generation import Sampled
from llmgym.host.inputs import Candidates, PassOptions, PassRequest, check_lists
from llmgym.host.pool import LocalPool, WorkerPool
from llmgym.host.rows import SCORE
from llmgym.host.serving import GenerateRequest, Placement, Request, Servable, Shard
from llmgym.host.sharding import divide, join, update_indices

__all__ = ["Host"]


class Host:
    """Several named models behind one object.

    Every call names the model it is for; where there is only one, it may be left out. A model that several processes
    serve divides the contexts of a call among them, and the candidates where contexts are fewer. An update takes
    place in all of them, each on a shard, with gradients averaged.

    >>> Host({}).score(["a"], [["b"]])
    Traceback (most recent call last):
    llmgym.errors.HostError: Expected a hosted model to ask, found none. Give Host at least one.
    """

    def __init__(self, models: Mapping[str, Servable], placements: Mapping[str, Placement] | None = None) -> None:
        """Load the models, and start their processes.

        Args:
            models: name to what the model is made from, such as `ModelSpec`.
            placements: name to where it is served; in this process, on the CPU, where it is left out.

        Raises:
            HostError: a placement makes no sense, or a model cannot be loaded.
        """
        placements = placements or {}
        for name, placement in placements.items():
            _check_placement(name, placement, models)
        self._pools: dict[str, LocalPool | WorkerPool] = {}
        self._closed: set[str] = set()
        try:
            for name, servable in models.items():
                placement = placements.get(name, Placement())
                is_local = placement.num_workers == 0
                pool = LocalPool(servable, placement) if is_local else WorkerPool(name, servable, placement)
                self._pools[name] = pool
        except BaseException:
            self.close()
            raise

    def score(
        self,
        contexts: Sequence[Any],
        candidates: Candidates,
        options: PassOptions | None = None,
        *,
        model: str | None = None,
    ) -> list[Tensor]:
        """Return log P(candidate | context), summed over tokens: float32 (num_candidates,) for each context.

        Raises:
            HostError: the request does not make sense, or a process died.
            PromptError: a context does not fit into the model.
        """
        return [result[SCORE] for result in self.run_modules([SCORE], contexts, candidates, options, model=model)]  # type: ignore[misc]

    def run_modules(
        self,
        keys: Sequence[str],
        contexts: Sequence[Any],
        candidates: Candidates | None = None,
        options: PassOptions | None = None,
        *,
        model: str | None = None,
        with_gradients: bool = False,
    ) -> list[PassResult]:
        """Run module functions; see `HostedModel.run_modules`.

        Raises:
            HostError: the request does not make sense, or a process died; or gradients are asked of a model in
                other processes.
            PromptError: a context does not fit into the model.
        """
        name, pool = self._pool(model)
        if with_gradients and not pool.keeps_graph:
            raise HostError(
                f"Expected no gradients from the model {name!r}, which other processes serve: a graph cannot leave its "
                "process. Use an updater, or num_workers=0."
            )
        check_lists(contexts, candidates)
        parts = divide(len(contexts), candidates, pool.size)
        requests: list[Request | None] = [
            PassRequest(
                tuple(keys),
                [contexts[piece.context] for piece in part],
                None
                if candidates is None
                else [[candidates[piece.context][index] for index in piece.candidates or ()] for piece in part],
                options or PassOptions(),
                with_gradients,
            )
            if part
            else None
            for part in parts
        ]
        found = pool.ask(requests)
        results = [result for part, answers in zip(parts, found, strict=True) if part for result in answers]
        return join(len(contexts), [piece for part in parts for piece in part], results)

    def generate(
        self,
        contexts: Sequence[Any],
        generation: Mapping[str, Any] | None = None,
        *,
        model: str | None = None,
        adapter: str | None = None,
        minibatch_size: int | None = None,
    ) -> list[list[Sampled]]:
        """Generate answers for every context; see `HostedModel.generate`.

        Raises:
            HostError: the request does not make sense, or a process died.
            PromptError: a context does not fit into the model.
        """
        _, pool = self._pool(model)
        check_lists(contexts, None)
        parts = divide(len(contexts), None, pool.size)
        requests: list[Request | None] = [
            GenerateRequest([contexts[piece.context] for piece in part], generation or {}, adapter, minibatch_size)
            if part
            else None
            for part in parts
        ]
        found = pool.ask(requests)
        return [sampled for answers in found if answers is not None for sampled in answers]

    def update(
        self,
        contexts: Sequence[Any],
        candidates: Candidates | None = None,
        data: Mapping[str, Any] | None = None,
        *,
        model: str | None = None,
    ) -> list[Any]:
        """Let the model's updater update it.

        Args:
            contexts: texts or token ids, divided among the processes.
            candidates: for each context its candidates, divided with them.
            data: what else the updater is given, by name, in every process.
            model: which model.

        Returns:
            what the updater returned, one item a process.

        Raises:
            HostError: the model has no updater, there is no context, or a process died or met an error.
        """
        name, pool = self._pool(model)
        if not contexts:
            raise HostError(f"Expected at least one context to update the model {name!r} with, got none.")
        check_lists(contexts, candidates)
        shards = [
            Shard(
                [contexts[index] for index in indices],
                None if candidates is None else [candidates[index] for index in indices],
                indices,
                data or {},
            )
            for indices in update_indices(len(contexts), pool.size)
        ]
        return pool.ask(shards)

    def update_shards(self, shards: Sequence[Shard], *, model: str | None = None) -> list[Any]:
        """Let the model's updater update it, on shards that the caller made: one for each process.

        Raises:
            HostError: there is not a shard for each process; or as for `update`.
        """
        name, pool = self._pool(model)
        if len(shards) != pool.size:
            raise HostError(f"Expected a shard for each of {pool.size} processes of {name!r}, got {len(shards)}.")
        return pool.ask(shards)

    def num_processes(self, model: str | None = None) -> int:
        """Return how many processes serve a model."""
        return self._pool(model)[1].size

    def close(self, model: str | None = None) -> None:
        """End a model's processes, or those of all models; a second call does nothing."""
        for name in [model] if model is not None else list(self._pools):
            if name in self._pools:
                self._pools.pop(name).close()
                self._closed.add(name)

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _pool(self, model: str | None) -> tuple[str, LocalPool | WorkerPool]:
        """Return the processes of a model."""
        if model is None and len(self._pools) == 1:
            return next(iter(self._pools.items()))
        if model is not None and model in self._pools:
            return model, self._pools[model]
        if model in self._closed or (model is None and self._closed and not self._pools):
            raise HostError(f"The model {model or 'of this host'!r} is closed. Make a new Host.")
        if not self._pools:
            raise HostError("Expected a hosted model to ask, found none. Give Host at least one.")
        known = ", ".join(self._pools)
        if model is None:
            raise HostError(f"Expected the name of a model, because there are several: {known}. Pass model=...")
        raise HostError(f"Expected a model among {known}, found {model!r}.{did_you_mean(model, self._pools)}")


def _check_placement(name: str, placement: Placement, models: Mapping[str, Servable]) -> None:
    if name not in models:
        raise HostError(f"Expected a placement of one of {', '.join(models)}, found {name!r}. Correct its name.")
    if placement.num_workers < 0:
        raise HostError(f"Expected num_workers of 0 or more for {name!r}, got {placement.num_workers}. Raise it.")
    if placement.devices and len(placement.devices) != max(1, placement.num_workers):
        raise HostError(
            f"Expected devices for each of {max(1, placement.num_workers)} processes of {name!r}, got "
            f"{len(placement.devices)}. Give one tuple a process."
        )
