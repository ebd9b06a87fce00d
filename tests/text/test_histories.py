"""Histories: what was said enters the prompt token by token, in every way to act."""

from __future__ import annotations

import numpy as np
import pytest

from llmgym.engine.scripted_engine import ByteTokenizer
from llmgym.errors import EnvError
from llmgym.text import Histories, History, PromptSettings, actions_of, make_prompt
from llmgym.types import Acting, Choice

TOKENIZER = ByteTokenizer()
EOS = 256
ACTIONS = ("left", "right")


def history(acting: Acting, kind: str = "append") -> History:
    one = History(make_prompt(PromptSettings(history=kind), TOKENIZER, 10_000, acting.how), acting)
    one.begin("g", "x", ACTIONS)
    return one


def choice(one: History, **changes) -> Choice:
    return Choice(1, 0.0, np.zeros(2, np.float32), one.candidate_ids, 0, **changes)


@pytest.mark.parametrize("is_ended", [False, True])
def test_text_goes_on_from_exactly_the_tokens_that_were_sampled(is_ended) -> None:
    one = history(Acting("text"))
    before = one.prompt_ids
    # Bytes 200 and 201 are no text: encoding the decoded answer would give other tokens.
    sampled = (200, 201, 10, *([EOS] if is_ended else []))
    one.extend(choice(one, sampled_ids=sampled, text="??", is_ended=is_ended), "y", ACTIONS)
    expected = [*before, 200, 201, 10, *b"\nObservation: y\nAction:"]
    assert one.prompt_ids.tolist() == expected


def test_reason_goes_on_from_thought_cue_and_action() -> None:
    one = history(Acting("reason"))
    before = one.prompt_ids
    cue = tuple(b"\nAction:")
    one.extend(choice(one, sampled_ids=(200, EOS), cue_ids=cue, text="?", is_ended=True), "y", ACTIONS)
    assert one.prompt_ids.tolist() == [*before, 200, *cue, *b" right", *b"\nObservation: y\nThought:"]


def test_the_end_of_a_scored_candidate_stays_out_of_the_prompt() -> None:
    one = history(Acting("score", ends_candidates=True))
    ended = tuple((*ids, EOS) for ids in one.candidate_ids)
    one.extend(Choice(0, 0.0, np.zeros(2, np.float32), ended, 0), "y", ACTIONS)
    assert TOKENIZER.decode(one.prompt_ids).endswith("Action: left\nObservation: y\nAction:")
    assert EOS not in one.prompt_ids


def test_an_action_from_outside_is_said_as_its_candidate() -> None:
    for how in ("score", "constrained", "text"):
        one = history(Acting(how))
        one.extend(1, "y", ACTIONS)
        assert TOKENIZER.decode(one.prompt_ids).endswith("Action: right\nObservation: y\nAction:")


def test_windows_show_the_texts_of_answers_and_thoughts() -> None:
    one = history(Acting("text"), "window")
    one.extend(choice(one, sampled_ids=(9,), text="go right!"), "y", ACTIONS)
    assert "Action 0: go right! \n Observation 1: y" in TOKENIZER.decode(one.prompt_ids)
    one = history(Acting("reason", cue="\nSo:"), "window")
    one.extend(choice(one, sampled_ids=(9,), cue_ids=(8,), text="hm"), "y", ACTIONS)
    assert "Thought 0: hm\nSo: right \n Observation 1: y" in TOKENIZER.decode(one.prompt_ids)


def test_the_open_actions_change_with_the_state() -> None:
    one = history(Acting("score"))
    one.extend(0, "y", ("wait",))
    assert one.actions == ("wait",)
    assert one.candidate_ids == (tuple(b" wait"),)


def test_missing_actions_are_named_with_their_environment() -> None:
    assert actions_of({"actions": [None, ["a"]]}, 1) == ("a",)
    assert actions_of({"actions": ("a",)}) == ("a",)
    with pytest.raises(EnvError, match=r"candidate actions of environment 0, found nothing\. Wrap"):
        actions_of({"actions": [None]}, 0)
    with pytest.raises(EnvError, match=r"candidate actions, found nothing\. Wrap"):
        actions_of({})


def test_histories_read_one_environment_of_a_vector() -> None:
    histories = Histories(2, lambda: make_prompt(PromptSettings(), TOKENIZER, 10_000))
    observations = {"mission": ["a", "b"], "text": ["x", "y"]}
    infos = {"actions": [("left",), ("right",)]}
    histories.begin(1, observations, infos)
    assert TOKENIZER.decode(histories[1].prompt_ids) == "Possible actions: right\nGoal: b\nObservation: y\nAction:"
    assert [one.actions for one in histories] == [(), ("right",)]
