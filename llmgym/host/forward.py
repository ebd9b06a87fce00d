"""A pass: every context with every candidate through the model, minibatch by minibatch, read by module functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from llmgym.errors import HostError, did_you_mean
from llmgym.host.inputs import EncodedPass, InputSettings, PassRequest, encode_pass
from llmgym.host.layout import ContextLayout, lay_out_contexts, lay_out_rows, takes_argument
from llmgym.host.rows import SCORE, ModuleFunction, Output, Rows, read_scores
from llmgym.host.shared import Shared, encode_shared
from llmgym.types import TokenIds

__all__ = ["PassResult", "run_pass"]

PassResult = dict[str, Output]
"""For one context: key of each function to what it said, one entry a candidate along the first axis, on the CPU."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A pass of which the contexts are ready: what its minibatches have in common."""

    model: Any
    inputs: InputSettings
    request: PassRequest
    encoded: EncodedPass
    layout: ContextLayout
    shared: Shared | None


def run_pass(
    model: Any, functions: Mapping[str, ModuleFunction], inputs: InputSettings, request: PassRequest
) -> list[PassResult]:
    """Run contexts with their candidates through a model, and let functions read its output.

    Args:
        model: a transformers model, with or without an adapter.
        functions: key to function; `SCORE` is built in.
        inputs: how the model is fed.
        request: what is asked for.

    Returns:
        for each context, key to what the function said of its candidates.

    Raises:
        HostError: a key is unknown, the input does not make sense, or a function returns something else than one entry
            a row.
        PromptError: a context does not fit into the model.
    """
    keys, options = request.keys, request.options
    _check_keys(keys, functions)
    size = _checked_size(options.minibatch_size, inputs.minibatch_size)
    encoded = encode_pass(inputs, request)
    rows = encoded.rows()
    if not rows:
        return [{key: torch.zeros(0) for key in keys} for _ in encoded.contexts]
    read: dict[str, list[Output]] = {key: [] for key in keys}
    with nullcontext() if request.with_gradients else torch.no_grad():
        layout = lay_out_contexts(encoded, inputs, options)
        shared = encode_shared(model, layout, inputs, size) if inputs.pre_encode_inputs else None
        prepared = _Prepared(model, inputs, request, encoded, layout, shared)
        for start in range(0, len(rows), size):
            seen = _run_rows(prepared, rows[start : start + size], start)
            for key in keys:
                output = read_scores(seen) if key == SCORE else functions[key].read(seen, options.named)
                read[key].append(_checked_output(key, output, len(seen.row_indices)))
    return _per_context(encoded, {key: _joined(parts) for key, parts in read.items()})


def _run_rows(prepared: _Prepared, rows: Sequence[tuple[int, TokenIds]], first_row: int) -> Rows:
    """Run one minibatch of rows."""
    model, layout, shared, request = prepared.model, prepared.layout, prepared.shared, prepared.request
    given = lay_out_rows(
        rows,
        layout,
        prepared.inputs,
        request.options,
        is_shared=shared is not None,
        takes_positions=takes_argument(model, "position_ids"),
    )
    added = {"use_cache": False} if shared is None else shared.inputs_for([index for index, _ in rows])
    with_hidden_states = request.keys != (SCORE,)
    outputs = model(**given.inputs, **added, output_hidden_states=with_hidden_states, return_dict=True)
    return Rows(
        outputs=outputs,
        given=replace(given, inputs={**given.inputs, **added}),
        contexts=tuple(prepared.encoded.contexts[index] for index, _ in rows),
        padded_contexts=tuple(layout.padded[index] for index, _ in rows),
        row_indices=tuple(range(first_row, first_row + len(rows))),
    )


def _check_keys(keys: Sequence[str], functions: Mapping[str, ModuleFunction]) -> None:
    if not keys:
        raise HostError(f"Expected a list of at least one module function, found none. Name one, or {SCORE!r}.")
    for key in keys:
        if key != SCORE and key not in functions:
            known = [SCORE, *functions]
            raise HostError(
                f"Expected module functions among {', '.join(known)}, found {key!r}.{did_you_mean(key, known)} "
                "Give it when the model is hosted."
            )


def _checked_size(asked: int | None, default: int) -> int:
    size = default if asked is None else asked
    if size < 1:
        raise HostError(f"Expected a minibatch size of at least 1, got {size}. Raise it.")
    return size


def _checked_output(key: str, output: Any, num_rows: int) -> Output:
    """Refuse what a function returns unless it has one entry a row."""
    tensors = output if isinstance(output, Mapping) else {"": output}
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or tensor.ndim == 0 or tensor.shape[0] != num_rows:
            what = f"a tensor of shape {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else type(tensor).__name__
            entry = f" under {name!r}" if name else ""
            raise HostError(
                f"Expected the module function {key!r} to return a tensor with one entry for each of {num_rows} rows, "
                f"got {what}{entry}. Keep the first axis."
            )
    if key == SCORE and bool(torch.isnan(output).any()):
        raise HostError(
            "Expected finite log-probabilities, got NaN from the model. Check its weights: a learning rate too high, "
            "or half precision, are the usual causes."
        )
    return {name: tensor.cpu() for name, tensor in output.items()} if isinstance(output, Mapping) else output.cpu()


def _joined(parts: Sequence[Output]) -> Output:
    """Join what a function said of the minibatches."""
    first = parts[0]
    if isinstance(first, Mapping):
        return {name: torch.cat([part[name] for part in parts]) for name in first}  # type: ignore[index]
    return torch.cat(list(parts))  # type: ignore[arg-type]


def _per_context(encoded: EncodedPass, read: Mapping[str, Output]) -> list[PassResult]:
    """Cut what was read of all rows into the contexts they belong to."""
    results: list[PassResult] = []
    start = 0
    for options in encoded.candidates:
        cut = slice(start, start + len(options))
        start += len(options)
        results.append(
            {
                key: {name: tensor[cut] for name, tensor in output.items()}
                if isinstance(output, Mapping)
                else output[cut]
                for key, output in read.items()
            }
        )
    return results
