"""BALROG's protocol on BabyAI-Text, and a variant for models that do not write in its format.

Paglieri et al. 2024, https://arxiv.org/abs/2411.13543; settings, messages and counting as in the authors' code
(balrog-ai/BALROG, its naive agent), read in 2026. Five kinds of mission, no distractors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from llmgym.envs.babyai.levels import KINDS
from llmgym.errors import ConfigError
from llmgym.run.protocols.task import Protocol, ProtocolOptions, PublishedRow, Task
from llmgym.run.seeds import HELD_OUT_SEED
from llmgym.text.chat_template import PLAIN_STOP
from llmgym.text.prompt import PromptSettings
from llmgym.types import Acting

__all__ = ["BALROG", "BALROG_SCORED"]

ENV = "llmgym/BabyAI-MixedTrainLocal-v0"
EPISODES = 10
"""A task, as on the leaderboard; the first models of the paper were given 25."""
NUM_ENVS = 10
TEMPERATURE = 1.0
"""As BALROG's settings say since March 2025; the rows before were measured at 0, as they tell."""
MAX_NEW_TOKENS = 64
"""BALROG lets a model write 8192. No action takes more than a few: a longer answer is as invalid when it is cut."""

LABELS = {
    "goto": "Go to",
    "pickup": "Pick up",
    "open": "Open",
    "putnext": "Put next to",
    "pick_up_seq_go_to": "Pick up, then go to",
}

PROMPT = PromptSettings(history="chat", num_observations=16, chat="balrog")
WRITTEN = Acting(
    how="text",
    max_new_tokens=MAX_NEW_TOKENS,
    # What ends an answer is the end of the turn; a model without a chat template does not know that one.
    stop=(PLAIN_STOP,),
    fallback="go forward",
    parser="llmgym.text.chat_wording:exact_action",
)
# The end of the turn counts: these are the odds of what a model would write, among answers that are valid.
SCORED = Acting(how="score", ends_candidates=True)

COUNTING = (
    "Progress is the share of episodes whose mission is fulfilled within the level's limit (64 steps; 128 for open, "
    "put next to, and pick up, then go to); ± is the standard error, the standard deviation over the root of n; the "
    "total is over the episodes of all tasks. A model as it is reads BALROG's messages in its own chat template (plain "
    "text where it has none), with the last 16 observations"
)


def _row(
    policy: str, setting: str, total: tuple[float, float], tasks: tuple[float, ...] = (), num_episodes: int = 10
) -> PublishedRow:
    """Write down a row of the leaderboard.

    Args:
        total: progress over all tasks and its standard error, in percent.
        tasks: progress of each task in percent, in the order of `KINDS`; () where it was not published.
        num_episodes: of each task.
    """
    rates = {"all": total[0] / 100, **{kind: rate / 100 for kind, rate in zip(KINDS, tasks, strict=False)}}
    return PublishedRow(
        policy=policy,
        training=f"zero-shot, {setting}",
        rates=rates,
        source=f"BALROG's leaderboard, LLM mode (balrog-ai/experiments, July 2025), {num_episodes} episodes a task",
        errors={"all": total[1] / 100},
    )


_GREEDY = "naive agent, temperature 0"
_SAMPLED = "naive agent, temperature 1"
_FIRST = "naive agent"
_COT = "chain-of-thought agent"

PUBLISHED = (
    _row("Gemini-2.5-Pro-exp (size not told)", _SAMPLED, (80.0, 5.7), (100, 100, 100, 0, 100)),
    _row("GPT-4o (size not told)", _FIRST, (77.6, 3.7), num_episodes=25),
    _row("Reka-Flash-3 (21 B)", f"{_COT}, temperature 1", (76.0, 6.0), (100, 100, 100, 10, 70)),
    _row("Grok-4 (size not told)", _SAMPLED, (76.0, 6.0), (100, 60, 100, 30, 90)),
    _row("DeepSeek-R1 (671 B)", f"{_COT}, temperature 1", (74.0, 6.2), (100, 80, 100, 0, 90)),
    _row("Llama-3.1 (70 B)", _FIRST, (73.2, 4.0), num_episodes=25),
    _row("Llama-3.2 (90 B)", _FIRST, (72.0, 6.4)),
    _row("Claude-3.5-Sonnet (size not told)", _GREEDY, (68.0, 6.6), (80, 80, 100, 0, 80)),
    _row("Gemini-2.5-Flash (size not told)", _SAMPLED, (68.0, 6.6), (100, 80, 100, 0, 60)),
    _row("Llama-3.3 (70 B)", _GREEDY, (66.0, 6.7), (90, 100, 50, 0, 90)),
    _row("Grok-3 (size not told)", _SAMPLED, (62.0, 6.9), (50, 90, 100, 0, 70)),
    _row("Gemini-1.5-Pro (size not told)", _FIRST, (58.4, 4.4), num_episodes=25),
    _row("Claude-3.5-Haiku (size not told)", _GREEDY, (52.0, 7.1), (100, 50, 60, 0, 50)),
    _row("GPT-4o-mini (size not told)", _FIRST, (50.4, 4.5), num_episodes=25),
    _row("Gemini-1.5-Flash (size not told)", _FIRST, (50.0, 7.1)),
    _row("Llama-3.2 (11 B)", _FIRST, (50.0, 7.1)),
    _row("Mistral-Nemo (12 B)", _GREEDY, (50.0, 7.1), (80, 90, 40, 20, 20)),
    _row("R1-distill-Qwen (32 B)", f"{_COT}, temperature 0", (48.0, 7.1), (90, 40, 40, 0, 70)),
    _row("Llama-3.1 (8 B)", _GREEDY, (36.0, 6.8), (60, 70, 10, 0, 40)),
    _row("Qwen2.5 (72 B)", _FIRST, (34.0, 6.7)),
    _row("Phi-4 (14 B)", "robust naive agent, temperature 0", (32.0, 6.6), (60, 70, 20, 0, 10)),
    _row("Qwen2-VL (72 B)", _FIRST, (24.0, 6.0)),
    _row("Llama-3.2 (3 B)", _GREEDY, (20.0, 5.7), (70, 20, 0, 0, 10)),
    _row("Qwen2.5 (7 B)", _GREEDY, (14.0, 4.9), (40, 20, 0, 0, 10)),
    _row("Llama-3.2 (1 B)", _GREEDY, (8.0, 3.8), (40, 0, 0, 0, 0)),
    _row("Qwen2-VL (7 B)", _FIRST, (4.0, 2.8)),
)


def _tasks(options: ProtocolOptions, acting: Acting) -> tuple[Task, ...]:
    """Return the five tasks.

    Raises:
        ConfigError: an option would make it another protocol.
    """
    refused: Mapping[str, object] = {
        "--env": options.env,
        "--env-set": options.env_settings or None,
        "--seeds": options.num_seeds if options.num_seeds != 1 else None,
        "--confidence": options.confidence,
    }
    for option, value in refused.items():
        if value is not None:
            raise ConfigError(
                f"Expected no {option} with --protocol balrog, which says itself what is played and how it is counted, "
                f"found {value!r}. Leave it out."
            )
    if options.max_new_tokens is not None:
        acting = replace(acting, max_new_tokens=options.max_new_tokens)
    return tuple(
        Task(
            name=kind,
            label=LABELS[kind],
            env=ENV,
            episodes=EPISODES if options.episodes is None else options.episodes,
            env_settings={"kind": kind, "num_dists": 0},
            first_seeds=(HELD_OUT_SEED + options.first_episode,),
            num_envs=NUM_ENVS if options.num_envs is None else options.num_envs,
            prompt=PROMPT,
            acting=acting,
            temperature=TEMPERATURE if options.temperature is None else options.temperature,
        )
        for kind in KINDS
    )


BALROG = Protocol(
    name="balrog",
    description="BALROG's BabyAI-Text: zero-shot chat, free answers, progress ± standard error",
    make_tasks=lambda options: _tasks(options, WRITTEN),
    spread="standard_error",
    confidence=0.95,
    has_total=True,
    counting=(
        f"{COUNTING}, and writes freely, at most {MAX_NEW_TOKENS} tokens unless said otherwise (BALROG: 8192): an "
        "answer that is not exactly an action means 'go forward', and is told so."
    ),
    published=PUBLISHED,
)

BALROG_SCORED = Protocol(
    name="balrog-scored",
    description="the same, but actions are scored: for models that follow no format; not BALROG's own",
    make_tasks=lambda options: _tasks(options, SCORED),
    spread="standard_error",
    confidence=0.95,
    has_total=True,
    counting=(
        f"{COUNTING}. Scored, not BALROG's own: one of the six actions is drawn by its probability as a whole answer, "
        "so no answer is invalid. The published rows wrote freely."
    ),
    published=PUBLISHED,
)
