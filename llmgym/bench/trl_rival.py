"""TRL's GRPO trainer, given episodes that were played before. The one module that imports trl."""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from llmgym.errors import ConfigError
from llmgym.types import TokenIds

__all__ = ["Episode", "check_trl", "take_trl_steps"]


@dataclass(frozen=True, slots=True)
class Episode:
    """One episode, as both are given it.

    Attributes:
        group: which it belongs to; its like begin with the same prompt, and stand beside it.
        turns: pairs of what is read and what is answered, in tokens.
        has_succeeded: whether its reward is 1, or 0.
    """

    group: int
    turns: tuple[tuple[TokenIds, TokenIds], ...]
    has_succeeded: bool

    @property
    def num_tokens(self) -> int:
        """Tokens of all its turns."""
        return sum(len(read) + len(answer) for read, answer in self.turns)


def check_trl() -> None:
    """Refuse to go on without TRL.

    Raises:
        ConfigError: it is not installed.
    """
    if importlib.util.find_spec("trl") is None:
        raise ConfigError(
            "Expected the package trl to compare with, found none. Install it: pip install 'llmgym[bench]'."
        )


def take_trl_steps(
    model: str,
    adapter: Path,
    episodes: Sequence[Episode],
    *,
    max_tokens: int,
    learning_rate: float,
    num_steps: int,
    after_step: Callable[[], None],
) -> list[float]:
    """Let TRL's trainer learn, and write what it has learned over the adapter that it began with.

    It is set as well as it can be on this task: no checkpoints of activations, no evaluation, nothing logged.

    Args:
        model: folder or hub id.
        adapter: folder of an adapter in PEFT's format.
        episodes: learned from in every step, all of them.
        max_tokens: of a micro-batch, padding included.
        learning_rate: constant.
        num_steps: optimizer steps.
        after_step: called behind each.

    Returns:
        seconds of each step, without the making of its rollouts.
    """
    import torch
    from datasets import Dataset
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback

    # trl exports its names in a way that type checkers cannot follow.
    trl = importlib.import_module("trl")
    num_groups, size = len({episode.group for episode in episodes}), _microbatch_size(episodes, max_tokens)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        settings = trl.GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=len(episodes) // size,
            num_generations=len(episodes) // num_groups,
            max_steps=num_steps,
            learning_rate=learning_rate,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            loss_type="grpo",
            beta=0.0,
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=not torch.cuda.is_available(),
            shuffle_dataset=False,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer: Any = trl.GRPOTrainer(
            model=PeftModel.from_pretrained(base, adapter, is_trainable=True),
            reward_funcs=lambda completions, **_: [float(episode.has_succeeded) for episode in episodes],
            args=settings,
            train_dataset=Dataset.from_dict({"prompt": ["x"] * num_groups}),
            processing_class=AutoTokenizer.from_pretrained(model),
            rollout_func=lambda prompts, trainer: _rollouts(episodes),
        )
        trainer.remove_callback(PrinterCallback)
        seconds = _time_steps(trainer, after_step)
        trainer.train()
        trainer.model.save_pretrained(adapter)
    return seconds


def _rollouts(episodes: Sequence[Episode]) -> dict[str, Any]:
    """Return episodes as TRL takes them: one completion each, in which a mask tells what was answered."""
    completions, masks = [], []
    for episode in episodes:
        parts = [(episode.turns[0][1], 1)]
        for read, answer in episode.turns[1:]:
            parts += [(read, 0), (answer, 1)]
        completions.append([token for tokens, _ in parts for token in tokens])
        masks.append([is_answer for tokens, is_answer in parts for _ in tokens])
    return {
        "prompt_ids": [list(episode.turns[0][0]) for episode in episodes],
        "completion_ids": completions,
        "logprobs": None,
        "env_mask": masks,
    }


def _time_steps(trainer: Any, after_step: Callable[[], None]) -> list[float]:
    """Make a trainer keep time; return the list that the seconds of its steps are going to stand in."""
    from transformers import TrainerCallback

    seconds: list[float] = []
    make_rollouts = trainer._generate_and_score_completions

    def make_rollouts_unseen(inputs: Any) -> Any:
        begun = perf_counter()
        made = make_rollouts(inputs)
        seconds[-1] -= perf_counter() - begun
        return made

    class Clock(TrainerCallback):  # type: ignore[misc]
        """Keeps the time of steps."""

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            """Start."""
            seconds.append(-perf_counter())

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            """Stop."""
            seconds[-1] += perf_counter()
            after_step()

    trainer._generate_and_score_completions = make_rollouts_unseen
    trainer.add_callback(Clock())
    return seconds


def _microbatch_size(episodes: Sequence[Episode], max_tokens: int) -> int:
    """Return the largest number of episodes that fits into the budget, padded, and divides their number."""
    longest = max(len(episode.turns[0][0]) for episode in episodes)
    longest += max(episode.num_tokens - len(episode.turns[0][0]) for episode in episodes)
    sizes = [size for size in range(1, len(episodes) + 1) if len(episodes) % size == 0 and size * longest <= max_tokens]
    return max(sizes, default=1)
