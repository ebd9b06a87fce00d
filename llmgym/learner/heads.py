"""A head: a module that reads one number per state from the hidden state at the end of its prompt.

Knows nothing of the language model but the width of its hidden states.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from llmgym.errors import LearnerError

__all__ = ["DEFAULT_HEADS", "HeadSpec", "ValueHead", "build_heads"]

HeadSpec = nn.Module | Callable[[int], nn.Module]
"""A head, or what makes one from the width of the hidden states (a class will do)."""

_RESERVED = frozenset({"model", "policy", "logprobs", "entropy"})


class ValueHead(nn.Module):
    """Predict a state's value, 0 at the start.

    The last layer starts at zero, so that an untrained critic neither inflates the first advantages nor sends noise
    into the trunk.

    >>> ValueHead(8)(torch.ones(3, 8)).tolist()
    [0.0, 0.0, 0.0]
    """

    def __init__(self, hidden_size: int, *, width: int = 256) -> None:
        super().__init__()
        self.inner = nn.Linear(hidden_size, width)
        self.outer = nn.Linear(width, 1)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Return float32 (num_states,) from hidden_states, float32 (num_states, D)."""
        values: Tensor = self.outer(torch.tanh(self.inner(hidden_states))).squeeze(-1)
        return values


DEFAULT_HEADS: Mapping[str, HeadSpec] = {"value": ValueHead}


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
        built[name] = module.float()
    return nn.ModuleDict(built)
