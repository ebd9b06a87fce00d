"""An environment's own language: texts to train a tokenizer on, and phrases that always mean one thing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llmgym.engine.scripted_engine import ByteTokenizer, ScriptedEngine
from llmgym.rollout.collector import Collector
from llmgym.run.seeds import training_seed
from llmgym.run.venv import make_env, make_venv
from llmgym.text.prompt import PromptSettings, appended_phrases
from llmgym.types import Acting

__all__ = ["sample_language"]

DEFAULT_PROMPT = PromptSettings()
NUM_ENVS = 16
NUM_STEPS = 64
LANGUAGE_STREAM = 2**31 + 1
"""Names the seeds of the episodes that are read for their language."""


def sample_language(
    env_id: str, env_settings: Mapping[str, Any], *, seed: int, prompt: PromptSettings = DEFAULT_PROMPT
) -> tuple[list[str], list[str]]:
    """Play at random, and return the prompts that came up, with the phrases that deserve a token of their own.

    Phrases are the actions as they follow a prompt, and what the environment lists as its fixed wordings in
    `phrases`, if it does.

    Args:
        env_settings: keyword arguments of the environment.
        seed: of the episodes.
        prompt: how a run tells histories; what is read for its language is told as "append" tells them.
    """
    prompt = replace(prompt, history="append")
    venv = make_venv(env_id, NUM_ENVS, env_settings)
    known = _phrases(env_id, env_settings)
    collector = Collector(
        venv,
        ScriptedEngine(),
        prompt=prompt,
        acting=Acting(),
        seed=seed,
        episode_seed=lambda env_index, number: training_seed(seed, LANGUAGE_STREAM, env_index, number),
    )
    decode = ByteTokenizer().decode
    actions: dict[str, None] = {}
    texts = []
    for trajectory in collector.collect(NUM_STEPS):
        texts.append(decode(trajectory.turns[-1].prompt_ids))
        for turn in trajectory.turns:
            actions.update((decode(ids), None) for ids in turn.candidate_ids)
    venv.close()
    return texts, [*actions, *appended_phrases(prompt), *known]


def _phrases(env_id: str, env_settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the fixed wordings that an environment lists, if it does."""
    env = make_env(env_id, env_settings)
    phrases: tuple[str, ...] = env.get_wrapper_attr("phrases") if env.has_wrapper_attr("phrases") else ()
    env.close()
    return phrases
