"""What can be set about the learner."""

from __future__ import annotations

from dataclasses import dataclass

from llmgym.learner.lora import LoraSettings

__all__ = ["LearnerSettings"]


@dataclass(frozen=True, slots=True)
class LearnerSettings:
    """What is trained, and how fast.

    Attributes:
        lora: trains a low-rank adapter; where it is left out, all weights are trained.
        learning_rate: of the model or its adapter, above 0; larger learns faster and less steadily.
        head_learning_rate: of the heads.
        weight_decay: of AdamW, at least 0.
        max_grad_norm: gradients longer than this are shortened to it.
        num_threads: of torch on a CPU; 0 takes all cores.
        max_tokens_per_microbatch: tokens computed at once, padding included; fewer take less memory.
    """

    lora: LoraSettings | None = None
    learning_rate: float = 3e-4
    head_learning_rate: float = 1e-3
    weight_decay: float = 0.0
    max_grad_norm: float = 0.5
    num_threads: int = 0
    max_tokens_per_microbatch: int = 2048
