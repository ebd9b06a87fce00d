"""What can be set about the learner."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from llmgym.learner.freezing import TrainedSettings
from llmgym.learner.lora import LoraSettings
from llmgym.learner.non_finite import OnNonFinite

__all__ = ["LearnerSettings", "OptimizerName", "Precision", "Trunk"]

OptimizerName = Literal["adamw", "muon", "adamw-8bit", "adamw-paged", "adamw-paged-8bit"]
Precision = Literal["float32", "bf16"]
Trunk = Literal["shared", "detached", "separate"]
"""Whose hidden states a head reads."""


@dataclass(frozen=True, slots=True)
class LearnerSettings:
    """What is trained, and how fast.

    Attributes:
        lora: trains a low-rank adapter; where it is left out, the model's own weights are trained.
        trained: which of these; all of them by default.
        load_in_4bit: packs the weights under the adapter into 4 bits (QLoRA, https://arxiv.org/abs/2305.14314): far
            less memory, and slower. An engine of vLLM then serves the plain weights that they stand for.
        precision: "float32", or "bf16": matrix products in bfloat16 with float32 weights for what learns; weights that
            are frozen under an adapter are kept in bfloat16. With engine.dtype="bfloat16" both compute alike.
        canary_tolerance: largest difference, in nats, between the scores of engine and learner after a swap that is
            taken for rounding; left out, 0.001 with float32 and 0.25 with bf16, whose logits have 8 bits. Raise it
            where the engine computes in bfloat16 and the learner does not.
        learning_rate: of the model or its adapter, above 0; larger learns faster and less steadily.
        head_learning_rate: of the heads.
        critic: what the heads read: the policy's own hidden states ("shared"), the same without a gradient into the
            policy ("detached"), or those of a copy of the model that learns by itself at learning_rate ("separate"),
            with an adapter of its own where lora is set: twice the memory.
        critic_updates: updates at the start in which the heads learn and the model does not: a critic that knows an
            expert's returns has to learn first what the clone's mistakes cost.
        warmup_updates: updates behind these in which the learning rate of the model rises to its full height; 0 starts
            at once.
        final_learning_rate: share of the learning rate that is left at the last update, from 0 to 1; it falls evenly.
        weight_decay: at least 0.
        optimizer: "adamw"; "muon", which learns a model's matrices from scratch with fewer samples; or bitsandbytes'
            AdamW with its state in 8 bits ("adamw-8bit"; on a CPU it is slow), in memory that a GPU pages out
            ("adamw-paged"), or both ("adamw-paged-8bit").
        max_grad_norm: gradients longer than this are shortened to it.
        on_non_finite: what happens where a loss or gradient is NaN or infinite: "stop" ends the run, "skip" leaves the
            step out and counts it (skipped_steps). Either way the batch is kept in the run folder, under broken/.
        num_ranks: processes that learn together, each with the whole model and its share of every minibatch, by tokens;
            on GPUs each has one. `llmgym train --learners` sets it.
        num_threads: of torch on a CPU, in each of them; 0 shares all cores out, but for one where the run collects
            meanwhile.
        max_tokens_per_microbatch: tokens computed at once, padding included; fewer take less memory.
    """

    lora: LoraSettings | None = None
    trained: TrainedSettings = field(default_factory=TrainedSettings)
    load_in_4bit: bool = False
    precision: Precision = "float32"
    canary_tolerance: float | None = None
    learning_rate: float = 3e-4
    head_learning_rate: float = 1e-3
    critic: Trunk = "shared"
    critic_updates: int = 0
    warmup_updates: int = 0
    final_learning_rate: float = 1.0
    weight_decay: float = 0.0
    optimizer: OptimizerName = "adamw"
    max_grad_norm: float = 0.5
    on_non_finite: OnNonFinite = "stop"
    num_ranks: int = 1
    num_threads: int = 0
    max_tokens_per_microbatch: int = 4096

    def learning_rate_factor(self, update: int, num_updates: int) -> float:
        """Return the share of the learning rate that an update is taken with.

        Args:
            update: from 1 to num_updates.

        >>> settings = LearnerSettings(warmup_updates=2, final_learning_rate=0.5)
        >>> [settings.learning_rate_factor(update, 5) for update in (1, 2, 3, 5)]
        [0.5, 0.875, 0.75, 0.5]
        >>> [LearnerSettings(critic_updates=2, warmup_updates=2).learning_rate_factor(n, 9) for n in (1, 2, 3, 4)]
        [0.0, 0.0, 0.5, 1.0]
        """
        if update <= self.critic_updates:
            return 0.0
        progress = (update - 1) / max(num_updates - 1, 1)
        decay = 1 - (1 - self.final_learning_rate) * progress
        warmup = min(1.0, (update - self.critic_updates) / self.warmup_updates) if self.warmup_updates else 1.0
        return decay * warmup
