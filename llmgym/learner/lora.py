"""Low-rank adapters: which weights get one, and putting them on a model. Knows no losses and no engines."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmgym.errors import LearnerError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["LoraSettings", "attach_lora"]

_ALL_LINEAR = "all-linear"


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """Low-rank adaptation (Hu et al. 2021, https://arxiv.org/abs/2106.09685).

    Attributes:
        rank: columns of the two factors, at least 1; larger can change more and costs more.
        alpha: the product of the factors is scaled by alpha / rank; larger moves faster.
        rank_stabilised: scale the product by alpha / sqrt(rank) instead (Kalajdzievski 2023,
            https://arxiv.org/abs/2312.03732), so that a larger rank does not learn more slowly.
        dora: learn the lengths of the weights' rows apart from their directions (DoRA, Liu et al. 2024,
            https://arxiv.org/abs/2402.09353). Engines do not know such adapters: they are sent the weights that model
            and adapter make together, all of them.
        dropout: share of the adapter's inputs, from 0 to below 1, that is left out at random in the passes that
            gradients are taken of, and nowhere else. The learner then differs from the policy that acted: the ratio of
            the first minibatch is not exactly 1, and behaviour_gap tells of the dropout, too.
        targets: last parts of the names of the layers that get an adapter, such as ("q_proj", "v_proj"), or
            ("all-linear",) for every linear layer but the output embeddings.
    """

    rank: int = 16
    alpha: float = 32.0
    rank_stabilised: bool = False
    dora: bool = False
    dropout: float = 0.0
    targets: tuple[str, ...] = (_ALL_LINEAR,)


def attach_lora(model: Any, settings: LoraSettings) -> Any:
    """Freeze a model and put adapters on it; they start as the identity, in float32.

    Args:
        model: a transformers PreTrainedModel.
        settings: which layers, and how large.

    Returns:
        The PEFT model around it.

    Raises:
        LearnerError: the rank is below 1, the dropout is no share, a target names no layer, or one that an engine
            cannot adapt.
    """
    import peft

    if settings.rank < 1 or settings.alpha <= 0:
        raise LearnerError(
            f"Expected LoRA rank >= 1 and alpha > 0, got rank={settings.rank} and alpha={settings.alpha}. Set them, or "
            "pass lora=None to train all weights."
        )
    if not 0 <= settings.dropout < 1:
        raise LearnerError(
            f"Expected LoRA dropout from 0 to below 1, got {settings.dropout}. It is a share: set 0.05 or so, or leave "
            "it out."
        )
    _check_targets(model, settings.targets)
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        use_rslora=settings.rank_stabilised,
        use_dora=settings.dora,
        target_modules=_ALL_LINEAR if _ALL_LINEAR in settings.targets else list(settings.targets),
        fan_in_fan_out=_is_transposed(model),
        task_type="CAUSAL_LM",
    )
    return peft.get_peft_model(model, config, autocast_adapter_dtype=True)


def _check_targets(model: Any, targets: tuple[str, ...]) -> None:
    """Refuse targets that match nothing, and embeddings: engines serve those without the adapter, in silence."""
    known = _adaptable_names(model)
    if not targets:
        raise LearnerError(f"Expected LoRA targets, got none. Choose among {', '.join(known)}, or ('all-linear',).")
    for target in targets:
        if target == _ALL_LINEAR or target in known:
            continue
        near = difflib.get_close_matches(target, known, n=3, cutoff=0.4)
        hint = f"Did you mean {' or '.join(repr(name) for name in near)}?" if near else "Change the LoRA targets."
        raise LearnerError(
            f"Expected LoRA targets among {', '.join(known)}, or 'all-linear', but the model has no such layer "
            f"{target!r}. {hint}"
        )


def _adaptable_names(model: nn.Module) -> list[str]:
    """List the last parts of the names of the layers that may get an adapter."""
    output = model.get_output_embeddings()  # type: ignore[operator]
    names = {
        name.rpartition(".")[2] for name, module in model.named_modules() if module is not output and _is_linear(module)
    }
    return sorted(names)


def _is_transposed(model: nn.Module) -> bool:
    """Tell whether a model's layers store their weights transposed, as GPT-2's do."""
    from transformers.pytorch_utils import Conv1D

    return any(isinstance(module, Conv1D) for module in model.modules())


def _is_linear(module: nn.Module) -> bool:
    """Tell whether a module is a linear layer, as torch or as GPT-2's Conv1D writes it."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, nn.Linear | Conv1D)
