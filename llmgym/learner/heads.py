"""A head: a module that makes one number of every hidden state it reads.

What it reads it may say in an attribute `reads`: "state", the end of a prompt, unless it says otherwise; "mean", the
mean of the prompt's tokens; "candidates", the end of every candidate; or "tokens", every token that the prompt adds to
the one before it. In an attribute `trunk` it may say whose hidden states: the policy's ("shared"), these without a
gradient into them ("detached"), or those of a copy of the model that learns by itself ("separate").

Knows nothing of the language model but the width of its hidden states.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import get_args

import torch
from torch import Tensor, nn

from llmgym.algorithms.algorithm import Algorithm, ReadsHeads
from llmgym.algorithms.units import Reads
from llmgym.errors import LearnerError
from llmgym.learner.settings import Trunk

__all__ = ["HeadSpec", "ValueHead", "build_heads", "head_values", "heads_for", "reads_of", "trunk_of"]

HeadSpec = nn.Module | Callable[[int], nn.Module]
"""A head, or what makes one from the width of the hidden states (a class will do)."""

_RESERVED = frozenset({"model", "policy", "logprobs", "entropy"})


class ValueHead(nn.Module):
    """Predict what a state, or each of its candidates, is worth: 0 at the start.

    The last layer starts at zero, so that an untrained critic neither inflates the first advantages nor sends noise
    into the trunk.

    >>> ValueHead(8)(torch.ones(3, 8)).tolist()
    [0.0, 0.0, 0.0]
    """

    def __init__(self, hidden_size: int, *, width: int = 256, reads: Reads = "state", trunk: Trunk = "shared") -> None:
        super().__init__()
        self.reads: Reads = reads
        self.trunk: Trunk = trunk
        self.inner = nn.Linear(hidden_size, width)
        self.outer = nn.Linear(width, 1)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Return float32 (num_read,) from hidden_states, float32 (num_read, D)."""
        values: Tensor = self.outer(torch.tanh(self.inner(hidden_states))).squeeze(-1)
        return values


def build_heads(heads: Mapping[str, HeadSpec], hidden_size: int) -> nn.ModuleDict:
    """Make the heads of a learner, in float32.

    Args:
        heads: name to module, or to what makes one from hidden_size.
        hidden_size: width of the hidden states.

    Raises:
        LearnerError: a name is reserved or no identifier, one module has two names, or a maker makes no module.
    """
    built: dict[str, nn.Module] = {}
    for name, head in heads.items():
        if not name.isidentifier() or name in _RESERVED or hasattr(nn.ModuleDict, name):
            raise LearnerError(
                f"Expected the name of a head to be an identifier other than {', '.join(sorted(_RESERVED))} or a name "
                f"that torch.nn.ModuleDict takes, got {name!r}. Rename the head."
            )
        module = head if isinstance(head, nn.Module) else head(hidden_size)
        if not isinstance(module, nn.Module):
            raise LearnerError(
                f"Expected the head {name!r} to be a torch.nn.Module or to make one from hidden_size, got "
                f"{type(module).__name__}. Derive it from torch.nn.Module."
            )
        twin = next((other for other, taken in built.items() if taken is module), None)
        if twin is not None:
            raise LearnerError(
                f"Expected a module for every head, but {twin!r} and {name!r} are the same one. Make one for each."
            )
        _check_reading(name, module)
        built[name] = module.float()
    return nn.ModuleDict(built)


def heads_for(algorithm: Algorithm, *, trunk: Trunk = "shared") -> dict[str, HeadSpec]:
    """Return what makes the heads that an algorithm needs: "value", and those it has of its own.

    Args:
        algorithm: who learns them.
        trunk: whose hidden states they read.
    """
    own = algorithm.heads if isinstance(algorithm, ReadsHeads) else {}
    reads: dict[str, Reads] = {"value": "state", **own}
    return {name: partial(ValueHead, reads=each, trunk=trunk) for name, each in reads.items()}


def head_values(name: str, head: nn.Module, hidden_states: Tensor) -> Tensor:
    """Return what a head says of hidden states (num_read, D): float32 (num_read,).

    Raises:
        LearnerError: it says something else than one number of each.
    """
    read = hidden_states.detach() if trunk_of(head) == "detached" else hidden_states
    values: Tensor = head(read.float())
    if values.shape != (len(read),):
        raise LearnerError(
            f"Expected the head {name!r} to return one number a state, shape (num_states,), got shape "
            f"{tuple(values.shape)}. Squeeze its last axis."
        )
    return values.float()


def reads_of(head: nn.Module) -> Reads:
    """Return what a head reads."""
    reads: Reads = getattr(head, "reads", "state")
    return reads


def trunk_of(head: nn.Module) -> Trunk:
    """Return whose hidden states a head reads."""
    trunk: Trunk = getattr(head, "trunk", "shared")
    return trunk


def _check_reading(name: str, head: nn.Module) -> None:
    """Refuse a head that wants to read what nobody has."""
    for attribute, found, known in (
        ("reads", reads_of(head), get_args(Reads)),
        ("trunk", trunk_of(head), get_args(Trunk)),
    ):
        if found not in known:
            raise LearnerError(
                f"Expected {attribute} of the head {name!r} to be one of {', '.join(known)}, got {found!r}. Change it."
            )
