"""The optimizer of the model's learned weights and the heads', and a step that refuses what is not finite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, get_args

import torch
from torch import Tensor, nn

from llmgym.errors import LearnerError
from llmgym.learner.bnb_optimizer import BNB_OPTIMIZERS, build_bnb_optimizer, load_bnb_state
from llmgym.learner.muon import AdamWithMuon
from llmgym.learner.non_finite import NonFiniteError
from llmgym.learner.policy import Policy
from llmgym.learner.settings import OptimizerName

__all__ = [
    "OptimizerSettings",
    "build_optimizer",
    "learned_parameters",
    "load_optimizer_tensors",
    "optimizer_tensors",
    "set_model_rate",
    "take_step",
]


class OptimizerSettings(Protocol):
    """What an optimizer is made from; see `Learner`."""

    @property
    def learning_rate(self) -> float:
        """Of the model's weights or of its adapter."""

    @property
    def head_learning_rate(self) -> float:
        """Of the heads."""

    @property
    def weight_decay(self) -> float:
        """Of parameters of two axes and more."""

    @property
    def optimizer(self) -> OptimizerName:
        """Which."""


def learned_parameters(policy: Policy) -> dict[str, nn.Parameter]:
    """Return all parameters that are learned, by name: "model.", "critic." or "heads.", and the parameter's own."""
    named = {f"model.{name}": parameter for name, parameter in policy.model_parameters()}
    named.update({f"critic.{name}": parameter for name, parameter in policy.critic_parameters()})
    heads = policy.heads.named_parameters()
    named.update({f"heads.{name}": parameter for name, parameter in heads if parameter.requires_grad})
    return named


def build_optimizer(policy: Policy, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Make AdamW (Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101) with a rate for the heads.

    Biases and norms (parameters of fewer than two axes) do not decay. With "muon", the matrices between a model's
    embeddings, or those of its adapter, are stepped by Muon (see `llmgym.learner.muon`); others are in
    `llmgym.learner.bnb_optimizer`.

    Raises:
        LearnerError: a rate or the decay is below 0, nothing is learned, there is no such optimizer, or it does not
            work here.
    """
    names = get_args(OptimizerName)
    if settings.optimizer not in names:
        raise LearnerError(
            f"Expected an optimizer among {', '.join(names)}, got {settings.optimizer!r}. Take one of them."
        )
    if min(settings.learning_rate, settings.head_learning_rate, settings.weight_decay) < 0:
        raise LearnerError(
            f"Expected rates and decay of at least 0, got learning_rate={settings.learning_rate}, head_learning_rate="
            f"{settings.head_learning_rate} and weight_decay={settings.weight_decay}. Change them."
        )
    named = learned_parameters(policy)
    if not named:
        raise LearnerError("Expected weights to learn, but all are frozen. Unfreeze some, or pass lora=LoraSettings().")
    embeddings = {id(policy.causal_model.get_input_embeddings().weight)}
    embeddings.add(id(policy.causal_model.get_output_embeddings().weight))
    groups: dict[tuple[str, bool, bool], dict[str, Any]] = {}
    for name, parameter in named.items():
        part, decays = name[: name.index(".") + 1], parameter.ndim >= 2
        is_inner = part == "model." and parameter.ndim == 2 and id(parameter) not in embeddings
        is_muon = settings.optimizer == "muon" and is_inner
        group = groups.setdefault((part, decays, is_muon), {"params": [], "part": part, "is_muon": is_muon})
        group["lr"] = settings.head_learning_rate if part == "heads." else settings.learning_rate
        group["weight_decay"] = settings.weight_decay if decays else 0.0
        group["params"].append(parameter)
    if settings.optimizer in BNB_OPTIMIZERS:
        return build_bnb_optimizer(settings.optimizer, list(groups.values()), policy.device)
    make = AdamWithMuon if settings.optimizer == "muon" else torch.optim.AdamW
    return make(list(groups.values()), fused=True)


def set_model_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Change the learning rate of the model's weights, or of its adapter's; heads and critic keep theirs."""
    for group in optimizer.param_groups:
        if group["part"] == "model.":
            group["lr"] = learning_rate


def take_step(optimizer: torch.optim.Optimizer, policy: Policy, max_grad_norm: float | None) -> float:
    """Clip the gradient, step, and return the gradient's norm before clipping.

    Args:
        optimizer: over the policy's learned parameters, whose gradients are set.
        policy: whose parameters they are.
        max_grad_norm: longest gradient that is not scaled down, above 0; None for no limit.

    Raises:
        NonFiniteError: the gradient is not finite; the parameters are left as they were.
    """
    named = learned_parameters(policy)
    parameters = [parameter for parameter in named.values() if parameter.grad is not None]
    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    if not bool(torch.isfinite(norm)):
        # Looked for before anything is scaled: scaling by a norm of NaN would spread it to every parameter.
        broken = [n for n, p in named.items() if p.grad is not None and not bool(torch.isfinite(p.grad).all())]
        optimizer.zero_grad(set_to_none=True)
        raise NonFiniteError(
            f"Expected a finite gradient, got norm {float(norm)}, first in {broken[0] if broken else 'the norm'} "
            f"({len(broken)} of {len(parameters)} parameters). The step was not taken. Lower the learning rate, or "
            "check the batch's returns.",
            tuple(broken),
        )
    if max_grad_norm is not None:
        nn.utils.clip_grads_with_norm_(parameters, max_grad_norm, norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(norm)


def optimizer_tensors(optimizer: torch.optim.Optimizer, policy: Policy) -> dict[str, Tensor]:
    """Return the optimizer's state as named tensors: "<parameter>:<entry>". Tables of numbers (qmap) are left out."""
    tensors = {}
    for name, parameter in learned_parameters(policy).items():
        for entry, value in optimizer.state.get(parameter, {}).items():
            if not entry.startswith("qmap"):
                tensors[f"{name}:{entry}"] = torch.as_tensor(value).detach().cpu().contiguous()
    return tensors


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, policy: Policy, tensors: Mapping[str, Tensor]) -> None:
    """Set the optimizer's state from named tensors.

    Raises:
        LearnerError: a tensor belongs to no parameter that is learned.
    """
    named = learned_parameters(policy)
    found: dict[nn.Parameter, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, entry = key.rpartition(":")
        if name not in named:
            raise LearnerError(
                f"Expected optimizer state of parameters that are learned, but {name!r} is none of them. Load the "
                "checkpoint with the model, adapter and heads that it was saved with."
            )
        found.setdefault(named[name], {})[entry] = value
    if hasattr(optimizer, "init_state"):
        load_bnb_state(optimizer, found)
        return
    for parameter, entries in found.items():
        # The step count of a fused optimizer lives where its parameter does.
        optimizer.state[parameter].update({entry: value.to(parameter.device) for entry, value in entries.items()})
