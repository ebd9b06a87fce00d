"""How much faster the learner takes GRPO's steps than TRL's trainer does, without generation (needs llmgym[bench]).

Both learn from the same tokens: same adapter at the start, same advantages, one optimizer step over the whole batch,
micro-batches within the same budget of tokens. Two kinds of batches:

- answers: a prompt, and one long answer to it, all of whose tokens are learned.
- episodes: turns of an observation and a short answer, of which the answers alone are learned.

TRL's time is taken without the making of its rollouts, llmgym's with all that an update does. Steps take turns.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig

from llmgym.algorithms.grpo import GRPO
from llmgym.bench.models import measure_models
from llmgym.bench.report import Report, make_report
from llmgym.bench.trl_rival import Episode, check_trl, take_trl_steps
from llmgym.learner import Learner, LoraSettings
from llmgym.learner.inference import infer_logprobs
from llmgym.learner.state_rows import pack_turns
from llmgym.learner.threads import at_work, default_num_threads
from llmgym.progress import without_progress_bars
from llmgym.rollout.batch import ReturnSettings, make_batch
from llmgym.types import Acting, TokenIds, Trajectory, Turn

__all__ = ["Workload", "make_episodes", "run"]

_logger = logging.getLogger(__name__)

LEARNING_RATE = 1e-4
RETURNS = ReturnSettings(gamma=1.0)
ADAPTER = "adapter_model.safetensors"


@dataclass(frozen=True, slots=True)
class Workload:
    """How much is measured.

    Attributes:
        models: "tiny", "smollm2" or both.
        num_groups: groups in a batch.
        group_size: episodes of each, an even number: half of them succeed.
        num_turns: most turns of an episode.
        observation_tokens: fewest and most tokens of an observation between two answers.
        answer_tokens: fewest and most tokens of an answer in an episode.
        prompt_tokens: fewest and most tokens of a prompt.
        long_answer_tokens: fewest and most tokens of the only answer to a prompt.
        max_tokens: of one forward pass, padding included.
        repeats: steps of either; the least time counts. One before them does not.
    """

    models: tuple[str, ...] = ("tiny", "smollm2")
    num_groups: int = 4
    group_size: int = 8
    num_turns: int = 8
    observation_tokens: tuple[int, int] = (12, 40)
    answer_tokens: tuple[int, int] = (3, 10)
    prompt_tokens: tuple[int, int] = (40, 120)
    long_answer_tokens: tuple[int, int] = (16, 128)
    max_tokens: int = 4096
    repeats: int = 3


def run(workload: Workload | None = None) -> Report:
    """Measure, and return tokens per second of both, ratios, and the cosine between what both have learned.

    Args:
        workload: how much; the default takes about 25 minutes and 11 GiB on two cores, nearly all of it for smollm2.

    Raises:
        ConfigError: TRL is not installed.
    """
    check_trl()
    work = workload or Workload()
    with at_work(default_num_threads()):
        return make_report(measure_models(work.models, partial(_measure, work=work)))


def make_episodes(work: Workload, *, is_long: bool, vocab_size: int, seed: int = 0) -> list[Episode]:
    """Make up a batch, of answers (is_long) or of episodes; groups stand together."""
    rng = np.random.default_rng(seed)

    def draw(limits: tuple[int, int]) -> TokenIds:
        count = int(rng.integers(limits[0], limits[1], endpoint=True))
        return tuple(int(token) for token in rng.integers(vocab_size, size=count))

    episodes = []
    for group in range(work.num_groups):
        prompt = draw(work.prompt_tokens)
        for number in range(work.group_size):
            if is_long:
                turns = [(prompt, draw(work.long_answer_tokens))]
            else:
                reads = [prompt, *(draw(work.observation_tokens) for _ in range(int(rng.integers(work.num_turns))))]
                turns = [(read, draw(work.answer_tokens)) for read in reads]
            episodes.append(Episode(group, tuple(turns), number % 2 == 0))
    return episodes


def _measure(model: str, *, work: Workload) -> dict[str, float]:
    """Measure both kinds of batches with a model."""
    figures: dict[str, float] = {}
    for kind in ("answers", "episodes"):
        found = _race(model, work, is_long=kind == "answers")
        figures |= {f"{kind}_{name}": value for name, value in found.items()}
    return figures


def _race(model: str, work: Workload, *, is_long: bool) -> dict[str, float]:
    """Take steps of both in turn on a batch, and return their figures."""
    vocab_size = AutoConfig.from_pretrained(model).vocab_size
    episodes = make_episodes(work, is_long=is_long, vocab_size=vocab_size)
    learner = Learner(
        model,
        lora=LoraSettings(rank=16, alpha=32.0),
        heads={},
        algorithm=GRPO(minibatch_turns=sum(len(episode.turns) for episode in episodes)),
        acting=Acting(how="text"),
        learning_rate=LEARNING_RATE,
        max_grad_norm=None,
        max_tokens_per_microbatch=work.max_tokens,
    )
    seconds: list[float] = []

    def step() -> None:
        trajectories = _recorded(learner, episodes)
        begun = perf_counter()
        learner.update(make_batch(trajectories, None, RETURNS, learner.algorithm))
        seconds.append(perf_counter() - begun)
        told = "%s: step %d of %d took llmgym %.1f s"
        _logger.info(told, "answers" if is_long else "episodes", len(seconds), work.repeats + 1, seconds[-1])

    with closing(learner), tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        before = _written(learner, folder / "trl")
        with without_progress_bars(), warnings.catch_warnings():
            # TRL warns of versions of vLLM, which it is not asked to use here.
            warnings.simplefilter("ignore", UserWarning)
            trl_seconds = take_trl_steps(
                model,
                folder / "trl",
                episodes,
                max_tokens=work.max_tokens,
                learning_rate=LEARNING_RATE,
                num_steps=work.repeats + 1,
                after_step=step,
            )
        ours, theirs = _written(learner, folder / "llmgym") - before, _loaded(folder / "trl") - before
    num_tokens = sum(episode.num_tokens for episode in episodes)
    best, trl_best = min(seconds[1:]), min(trl_seconds[1:])
    return {
        "tokens": num_tokens,
        "llmgym_tokens_per_second": num_tokens / best,
        "trl_tokens_per_second": num_tokens / trl_best,
        "ratio_llmgym_over_trl": trl_best / best,
        "cosine_of_what_both_learned": float(torch.cosine_similarity(ours, theirs, dim=0)),
    }


def _recorded(learner: Learner, episodes: Sequence[Episode]) -> list[Trajectory]:
    """Return the episodes as if the learner had just played them: with the log-probabilities that it gives them."""
    turns: list[Turn] = []
    for episode in episodes:
        prompt_ids: TokenIds = ()
        for number, (read, answer) in enumerate(episode.turns, start=1):
            prompt_ids = prompt_ids + read
            is_last = number == len(episode.turns)
            reward = float(is_last and episode.has_succeeded)
            prompt = np.array(prompt_ids, np.int32)
            turns.append(Turn(prompt, ((0,),), 0, 0.0, reward, is_last, False, 0, sampled_ids=answer))
            prompt_ids = prompt_ids + answer
    rows = pack_turns(learner.policy, turns, learner.acting, None)
    drawn = infer_logprobs(learner.policy, rows, turns, learner.acting, 16384, credit="draw").tolist()
    logprobs = iter(drawn)
    recorded = iter(replace(turn, draw_logprobs=tuple(next(logprobs) for _ in turn.sampled_ids)) for turn in turns)
    return [
        Trajectory(tuple(next(recorded) for _ in episode.turns), None, 0, seed=episode.group) for episode in episodes
    ]


def _written(learner: Learner, folder: Path) -> Tensor:
    """Write the learner's adapter into a folder, and return it as one vector."""
    folder.mkdir()
    learner.policy.write_adapter(str(folder))
    return _loaded(folder)


def _loaded(folder: Path) -> Tensor:
    """Return the adapter of a folder as one vector, float32."""
    tensors = load_file(folder / ADAPTER)
    return torch.cat([tensors[name].float().reshape(-1) for name in sorted(tensors)])
