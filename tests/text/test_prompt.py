"""Prompts: their exact wording, and that they only grow."""

from __future__ import annotations

import numpy as np
import pytest

from llmgym.engine.scripted_engine import ByteTokenizer
from llmgym.errors import PromptError
from llmgym.text import AppendedPrompt, PromptSettings, WindowPrompt, make_prompt
from llmgym.types import How

ACTIONS = ("turn left", "turn right", "go forward", "pick up", "drop", "toggle")
HEAD = "Possible action of the agent: turn left, turn right, go forward, pick up, drop, toggle \n Goal of the agent: g"


def said(prompt) -> str:
    return ByteTokenizer().decode(prompt.token_ids)


def play(prompt, texts: list[str], taken: list[str]) -> None:
    prompt.begin("g", texts[0], ACTIONS)
    for action, text in zip(taken, texts[1:], strict=True):
        prompt.extend(action, prompt.candidates((action,))[0], text, ACTIONS)


def test_window_is_glams_template_to_the_space() -> None:
    prompt = WindowPrompt(ByteTokenizer(), 10_000)
    play(prompt, ["x", "y"], ["turn left"])
    assert said(prompt) == (HEAD + " \n Observation 0: x, \n Action 0: turn left \n Observation 1: y, \n Action 1: ")
    assert prompt.candidates(("drop",)) == (tuple(b"drop"),)


def test_window_shows_the_last_observations_numbered_from_zero() -> None:
    prompt = WindowPrompt(ByteTokenizer(), 10_000, num_observations=3)
    play(prompt, ["a", "b", "", "d, e"], ["turn left", "drop", "toggle"])
    assert said(prompt) == (
        HEAD + " \n Observation 0: b, \n Action 0: drop \n Observation 1: \n Action 1: toggle"
        " \n Observation 2: d, e, \n Action 2: "
    )


def test_window_forgets_the_last_episode() -> None:
    prompt = WindowPrompt(ByteTokenizer(), 10_000)
    play(prompt, ["x", "y"], ["turn left"])
    play(prompt, ["z"], [])
    assert said(prompt) == HEAD + " \n Observation 0: z, \n Action 0: "


def test_appended_prompt_only_grows_by_what_was_sampled() -> None:
    prompt = AppendedPrompt(ByteTokenizer(), 10_000)
    prompt.begin("g", "x", ACTIONS)
    first = prompt.token_ids
    sampled = (1, 2, 3)  # Not what the action's text would be tokenized to: it must not be tokenized again.
    prompt.extend("turn left", sampled, "y", ACTIONS)
    np.testing.assert_array_equal(prompt.token_ids[: len(first)], first)
    assert tuple(prompt.token_ids[len(first) : len(first) + 3]) == sampled
    assert ByteTokenizer().decode(prompt.token_ids[len(first) + 3 :]) == "\nObservation: y\nAction:"


def appended(text: str) -> AppendedPrompt:
    prompt = AppendedPrompt(ByteTokenizer(), 10_000)
    prompt.begin("g", text, ACTIONS)
    return prompt


def test_prompt_arrays_are_not_changed_by_later_turns() -> None:
    prompt = appended("x")
    kept = prompt.token_ids
    copy = kept.copy()
    prompt.extend("drop", (1,), "y", ACTIONS)
    np.testing.assert_array_equal(kept, copy)


@pytest.mark.parametrize("history", ["append", "window"])
def test_prompt_beyond_the_context_names_turn_and_tokens(history) -> None:
    prompt = make_prompt(PromptSettings(history=history), ByteTokenizer(), 200)
    prompt.begin("g", "x", ACTIONS)
    with pytest.raises(PromptError, match=r"at most 200 tokens.*at turn 1 of the episode it has \d{3}\. Set"):
        prompt.extend("turn left", tuple(b" turn left"), "y" * 100, ACTIONS)


@pytest.mark.parametrize("history", ["append", "window"])
def test_what_looks_like_a_special_token_stays_text(history, tiny_model) -> None:
    from llmgym.engine.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(str(tiny_model))
    prompt = make_prompt(PromptSettings(history=history), tokenizer, 10_000)
    prompt.begin("g", "a note says <|endoftext|>", ACTIONS)
    assert tokenizer.eos_token_id not in prompt.token_ids
    assert "a note says <|endoftext|>" in tokenizer.decode(prompt.token_ids)


def test_a_prompt_for_reasoning_asks_for_a_thought() -> None:
    prompt = make_prompt(PromptSettings(), ByteTokenizer(), 10_000, "reason")
    prompt.begin("g", "x", ACTIONS)
    prompt.extend("", tuple(b" left is best\nAction: turn left"), "y", ACTIONS)
    assert said(prompt).endswith("\nObservation: x\nThought: left is best\nAction: turn left\nObservation: y\nThought:")
    assert prompt.candidates(("drop",)) == (tuple(b" drop"),)


def test_a_window_for_reasoning_shows_thoughts_as_texts() -> None:
    prompt = make_prompt(PromptSettings(history="window"), ByteTokenizer(), 10_000, "reason")
    prompt.begin("g", "x", ACTIONS)
    prompt.extend("left is best\nAction: turn left", (1, 2), "y", ACTIONS)
    assert said(prompt) == (
        HEAD + " \n Observation 0: x, \n Thought 0: left is best\nAction: turn left \n Observation 1: y, \n Thought 1: "
    )
    assert prompt.candidates(("drop",)) == (tuple(b" drop"),)


def test_a_french_window_has_the_headings_of_glams_french_prompts() -> None:
    prompt = make_prompt(PromptSettings(history="window", language="french"), ByteTokenizer(), 10_000)
    prompt.begin("aller à la balle", "x", ("basculer",))
    assert said(prompt) == (
        "Actions possibles pour l'agent: basculer \n But de l'agent: aller à la balle"
        " \n Observation 0: x, \n Action 0: "
    )


def test_a_french_appended_prompt_has_french_headings() -> None:
    prompt = make_prompt(PromptSettings(language="french"), ByteTokenizer(), 10_000)
    prompt.begin("aller à la balle", "x", ("basculer",))
    assert said(prompt) == "Actions possibles: basculer\nBut: aller à la balle\nObservation: x\nAction:"


def test_a_goal_that_is_told_again_ends_every_prompt() -> None:
    prompt = make_prompt(PromptSettings(restates_goal=True), ByteTokenizer(), 10_000)
    prompt.begin("go to the red ball", "x", ("turn left", "go forward"))
    (left, _) = prompt.candidates(("turn left", "go forward"))
    assert ByteTokenizer().decode(left) == ": turn left"
    prompt.extend("turn left", left, "y", ("turn left", "go forward"))
    assert said(prompt) == (
        "Possible actions: turn left, go forward\nGoal: go to the red ball"
        "\nObservation: x\nAction to go to the red ball: turn left"
        "\nObservation: y\nAction to go to the red ball"
    )
    prompt.begin("pick up a key", "z", ("pick up",))
    assert said(prompt).endswith("\nGoal: pick up a key\nObservation: z\nAction to pick up a key")
    french = make_prompt(PromptSettings(restates_goal=True, language="french"), ByteTokenizer(), 10_000)
    french.begin("aller à la balle", "x", ("basculer",))
    assert said(french).endswith("\nAction pour aller à la balle")


@pytest.mark.parametrize(
    ("settings", "how"),
    [
        (PromptSettings(history="window", restates_goal=True), "score"),
        (PromptSettings(history="chat", restates_goal=True), "score"),
        (PromptSettings(restates_goal=True), "text"),
        (PromptSettings(restates_goal=True), "reason"),
    ],
)
def test_a_goal_is_not_told_again_where_nothing_would_tell_it(settings: PromptSettings, how: How) -> None:
    with pytest.raises(
        PromptError, match=rf"found history={settings.history} and how={how}\. Set prompt\.restates_goal"
    ):
        make_prompt(settings, ByteTokenizer(), 10_000, how)
