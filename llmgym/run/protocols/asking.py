"""How a policy is asked in a task: whose prompt it reads, how it acts, and how that is told. Knows no numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from llmgym.run.agents import find_agent
from llmgym.run.policy import OpenPolicy, ServedPolicy
from llmgym.run.protocols.task import Task
from llmgym.text.histories import History
from llmgym.text.prompt import PromptSettings, make_prompt
from llmgym.types import Acting

__all__ = ["Asking", "asking_of"]


@dataclass(frozen=True)
class Asking:
    """How a policy is asked in a task.

    Attributes:
        text: in a few words, for reports.
        prompt: how the history is told; None for an agent.
        acting: how actions are taken; None for an agent.
        facts: settings, and a prompt as it would be read, with the hash of its token ids.
    """

    text: str
    prompt: PromptSettings | None = None
    acting: Acting | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


def asking_of(opened: OpenPolicy, task: Task) -> Asking:
    """Return how a policy is asked: a run as it was trained, a model as it is as the task says."""
    served = opened.served
    if served is None:
        agent = find_agent(opened.policy, task.env, task.env_settings)
        assert agent is not None, "it was found when the policy was opened"
        return Asking("a look into the environment" if agent.needs_env else "no prompt")
    if opened.identity.kind == "run":
        prompt, acting = served.config.prompt, served.config.acting
        if task.prompt.language != "english":
            prompt = replace(prompt, language=task.prompt.language)
        temperature, whose = served.config.evaluation.temperature, "its own prompt"
    else:
        prompt, acting = task.prompt, task.acting
        temperature, whose = acting.temperature, "the protocol's prompt"
    acting = replace(acting, temperature=temperature if task.temperature is None else task.temperature)
    history = prompt.history if prompt.history == "append" else f"{prompt.history} of {prompt.num_observations}"
    text = f"{whose} ({history}), {acting.how}, temperature {acting.temperature:g}"
    facts = {"prompt": asdict(prompt), "acting": asdict(acting), **_example(served, prompt, acting, task)}
    return Asking(text, prompt, acting, facts)


def _example(served: ServedPolicy, prompt: PromptSettings, acting: Acting, task: Task) -> dict[str, str]:
    """Return a prompt of one turn with made-up mission and observations: all of its fixed words, and their hash."""
    engine = served.engine
    history = History(make_prompt(prompt, engine.tokenizer, engine.max_context_tokens, acting.how), acting)
    actions = tuple(map(task.rewording.action, ("go forward", "turn left")))
    history.begin("MISSION", "FIRST OBSERVATION", actions)
    history.extend(0, "SECOND OBSERVATION", actions)
    ids = history.prompt_ids
    return {
        "prompt_example": str(engine.tokenizer.decode(ids)),
        "prompt_sha256": hashlib.sha256(ids.astype("<i4").tobytes()).hexdigest(),
    }
