"""Behaviour cloning: make the demonstrated actions likely (Pomerleau 1991, https://doi.org/10.1162/neco.1991.3.1.88).

And, where asked for, the observations too, as a model of whole trajectories does (Janner et al. 2021,
https://arxiv.org/abs/2106.02039): there is far more to learn from in what is read than in the few bits of an action.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmgym.algorithms.ppo import value_loss
from llmgym.algorithms.units import Outputs, Targets, head_output

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["BehaviourCloning"]


@dataclass(frozen=True, slots=True)
class BehaviourCloning:
    """Settings of behaviour cloning, and its loss: cross-entropy of the demonstrated actions.

    Attributes:
        epochs: how often an update goes through its batch.
        minibatch_turns: about how many turns a gradient step is taken on.
        value_coef: weight of fitting the head "value" to the returns, at least 0; above 0, reinforcement learning
            that follows starts with a critic that knows the demonstrator.
        text_coef: weight of foreseeing the text of the demonstrations, observations and all, at least 0; above 0, the
            model learns sooner how what it reads hangs together.
    """

    epochs: int = 1
    minibatch_turns: int = 64
    value_coef: float = 0.0
    text_coef: float = 0.0

    @property
    def reads_text(self) -> bool:
        """Whether the loss needs `Outputs.text_logprobs`."""
        return self.text_coef > 0

    def loss(self, outputs: Outputs, targets: Targets) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return -log P(demonstrated action) + value_coef * value loss + text_coef * text loss, a mean, and metrics.

        Raises:
            LearnerError: value_coef is above 0 and the learner has no head "value".
        """
        loss = clone = targets.mean(-outputs.logprobs)
        metrics = {"clone_loss": clone, "entropy": targets.mean(outputs.entropies)}
        if outputs.action_logprobs.shape[1]:
            correct = outputs.action_logprobs.argmax(dim=-1) == targets.actions
            metrics["accuracy"] = targets.mean(correct.float())
        if self.value_coef > 0:
            value = targets.mean(value_loss(head_output(outputs, "value"), targets.returns, targets.values, None))
            loss = loss + self.value_coef * value
            metrics["value_loss"] = value
        if self.text_coef > 0:
            assert outputs.text_logprobs is not None, "asked for by reads_text"
            text = targets.mean(-outputs.text_logprobs)
            loss = loss + self.text_coef * text
            metrics["text_loss"] = text
        return loss, {name: metric.detach() for name, metric in metrics.items()}
