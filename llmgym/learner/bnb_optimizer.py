"""AdamW of bitsandbytes: its state in 8 bits, in memory that pages out, or both. Knows no policy.

8 bits a number, block by block (Dettmers et al. 2022, https://arxiv.org/abs/2110.02861), take a quarter of the memory
of AdamW's two moments; a tensor of fewer than 4096 numbers keeps 32 bits. Paged state moves to the machine's memory
where the GPU's is short (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314). Weights have 32 bits in all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from llmgym.errors import LearnerError

__all__ = ["BNB_OPTIMIZERS", "build_bnb_optimizer", "load_bnb_state"]

BNB_OPTIMIZERS: Mapping[str, str] = {
    "adamw-8bit": "AdamW8bit",
    "adamw-paged": "PagedAdamW32bit",
    "adamw-paged-8bit": "PagedAdamW8bit",
}
"""Name of an optimizer to its class in bitsandbytes."""


def build_bnb_optimizer(name: str, groups: list[dict[str, Any]], device: torch.device) -> torch.optim.Optimizer:
    """Make an optimizer of bitsandbytes.

    Args:
        name: one of `BNB_OPTIMIZERS`.
        groups: of parameters, with their rates and decays.
        device: where these are.

    Raises:
        LearnerError: the optimizer needs a GPU, bitsandbytes, or a later version of it.
    """
    if "paged" in name and device.type == "cpu":
        raise LearnerError(
            f"Expected a GPU for optimizer={name!r}, which moves its state out of a GPU's memory, found the model on "
            "the cpu. Take adamw-8bit or adamw."
        )
    try:
        import bitsandbytes

        make = getattr(bitsandbytes.optim, BNB_OPTIMIZERS[name])
        optimizer: torch.optim.Optimizer = make(groups)
        if device.type == "cpu":
            # On a CPU its steps are compiled for every shape of parameter, which takes minutes and saves nothing.
            eagerly = torch.compiler.set_stance("force_eager")
            optimizer.step = eagerly(optimizer.step)  # type: ignore[method-assign]
            eagerly(_check_steps)(make)
    except (ImportError, AttributeError, RuntimeError, NotImplementedError) as error:
        raise LearnerError(
            f"Expected a bitsandbytes that steps {name!r} on {device.type}, found one that does not: {error} Install "
            "bitsandbytes 0.50 or later, or take adamw."
        ) from error
    return optimizer


def load_bnb_state(optimizer: Any, tensors: Mapping[nn.Parameter, Mapping[str, Tensor]]) -> None:
    """Set the state of a new optimizer of bitsandbytes, whose paged buffers it alone can make.

    Args:
        optimizer: as `build_bnb_optimizer` makes it; its parameters are where they will stay.
        tensors: what is known of each parameter, by name of the entry; "step" as a number.
    """
    for group_index, group in enumerate(optimizer.param_groups):
        for index, parameter in enumerate(group["params"]):
            if parameter not in tensors:
                continue
            optimizer.init_state(group, parameter, group_index, index)
            state = optimizer.state[parameter]
            for entry, value in tensors[parameter].items():
                if entry == "step":
                    state[entry] = int(value)
                else:
                    state[entry].copy_(value)


def _check_steps(make: Any) -> None:
    """Take a step on a parameter that is thrown away: early versions of bitsandbytes step on GPUs only."""
    parameter = nn.Parameter(torch.zeros(4096))
    parameter.grad = torch.ones_like(parameter)
    make([parameter]).step()
