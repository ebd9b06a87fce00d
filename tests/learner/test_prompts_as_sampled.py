"""What was sampled and shown is what is learned from, token by token, whatever its text would encode to."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmgym.engine.tokenizer import load_tokenizer
from llmgym.learner.row import Row, build_rows
from llmgym.learner.state_rows import free_tokens
from llmgym.text import ChatWording, History, PromptSettings, make_prompt
from llmgym.types import Acting, Choice, TokenIds, Turn

ACTIONS = ("turn left", "drop")


def play(tokenizer: Any, settings: PromptSettings, acting: Acting, answers: Sequence[TokenIds]) -> list[Turn]:
    """Say the answers (token ids, the last of each may end the sequence) one after the other; return the turns."""
    history = History(make_prompt(settings, tokenizer, 10_000, acting.how), acting)
    history.begin("go to the ball", "You see a red ball", ACTIONS)
    cue = tuple(tokenizer.encode(acting.cue, add_special_tokens=False)) if acting.how == "reason" else ()
    turns = []
    for ids in answers:
        is_ended = ids[-1] == tokenizer.eos_token_id
        text = tokenizer.decode(ids, skip_special_tokens=True)
        choice = Choice(1, -1.0, np.zeros(2, np.float32), history.candidate_ids, 0, ids, cue, text, is_ended=is_ended)
        turns.append(
            Turn(
                history.prompt_ids,
                choice.candidate_ids,
                choice.index,
                choice.logprob,
                reward=0.0,
                terminated=False,
                truncated=False,
                policy_version=0,
                sampled_ids=choice.sampled_ids,
                cue_ids=choice.cue_ids,
                is_ended=is_ended,
            )
        )
        history.extend(choice, "You see a red ball", ACTIONS)
    return turns


def rows_of(turns: Sequence[Turn], acting: Acting) -> list[Row]:
    candidates: list[tuple[TokenIds, ...]] = [() if acting.how == "text" else turn.candidate_ids for turn in turns]
    return build_rows([turn.prompt_ids for turn in turns], candidates, [free_tokens(turn, acting) for turn in turns])


def assert_rows_hold(rows: Sequence[Row], turns: Sequence[Turn]) -> None:
    """Check that the learner reads every turn's prompt and sampled tokens as they were, bit by bit."""
    read = []
    for row in rows:
        counts = zip(row.prompt_lengths, row.num_free, row.context_lengths, strict=True)
        free = row.free_ids.tolist()
        for turn, (num_prompt, num_free, num_context) in zip(turns[row.first_state :], counts, strict=False):
            sampled, free = tuple(free[:num_free]), free[num_free:]
            assert row.trunk_ids[:num_prompt].tolist() == turn.prompt_ids.tolist()
            assert sampled == turn.sampled_ids
            behind = tuple(row.trunk_ids[num_prompt:num_context].tolist())
            assert behind == ((*turn.kept_ids, *turn.cue_ids) if turn.cue_ids else turn.sampled_ids[:-1])
            read.append(turn)
    assert read == list(turns)


@pytest.mark.parametrize("how", ["text", "reason"])
def test_the_learner_reads_what_was_sampled_though_its_text_encodes_otherwise(tiny_model: Path, how: Any) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    rng = np.random.default_rng(0)
    letters = tuple(tokenizer.convert_tokens_to_ids(list("turn")))
    assert len(tokenizer.encode("turn", add_special_tokens=False)) == 1, "spelled out, it would be merged"
    answers: list[TokenIds] = [letters, (*letters, tokenizer.eos_token_id)]
    for _ in range(20):
        answers.append(tuple(int(token) for token in rng.integers(1, len(tokenizer), size=int(rng.integers(1, 9)))))
    again = [tuple(tokenizer.encode(tokenizer.decode(ids), add_special_tokens=False)) for ids in answers]
    assert sum(ids != one for ids, one in zip(answers, again, strict=True)) > 10, "most are not what they encode to"
    acting = Acting(how)
    turns = play(tokenizer, PromptSettings(), acting, answers)
    (row,) = rows_of(turns, acting)
    assert_rows_hold([row], turns)
    for turn, following in pairwise(turns):
        said = turn.candidate_ids[turn.action] if how == "reason" else ()
        begun = [*turn.prompt_ids.tolist(), *turn.kept_ids, *turn.cue_ids, *said]
        assert following.prompt_ids[: len(begun)].tolist() == begun


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As Qwen3's: thoughts of answers before the user's last message are left out.
FORGETS_THOUGHTS = CHATML.replace("m.content", "m.content.split('</think>')[-1]")
ALTERNATES = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
STEADY = ChatWording(observation="{text}", current="{text}", letters_only=False)
"""Says of an observation what it said before."""
CHANGES = ChatWording(current="Now: {text}", letters_only=False)


@pytest.mark.parametrize(
    ("template", "wording", "num_observations", "num_rows"),
    [
        (None, STEADY, 16, 1),
        (CHATML, STEADY, 16, 1),
        (ALTERNATES, STEADY, 16, 1),
        (FORGETS_THOUGHTS, STEADY, 16, 4),
        (CHATML, CHANGES, 16, 4),
        (CHATML, STEADY, 1, 4),
    ],
    ids=["plain", "chatml", "alternates", "forgets thoughts", "words the past otherwise", "slides"],
)
def test_a_chat_that_rewrites_its_past_starts_a_row(
    tiny_model: Path, template: str | None, wording: ChatWording, num_observations: int, num_rows: int
) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = template
    # The answers are as their text encodes, without what a template trims; the next prompt may go on from them.
    space = "" if template else " "
    said = tuple(tokenizer.encode(f"{space}<think>left?</think>drop", add_special_tokens=False))
    settings = PromptSettings(history="chat", num_observations=num_observations, chat=wording)
    acting = Acting("text")
    turns = play(tokenizer, settings, acting, [said] * 4)
    rows = rows_of(turns, acting)
    assert_rows_hold(rows, turns)
    is_prefix = [
        following.prompt_ids[: len(turn.prompt_ids) + len(said) - 1].tolist() == [*turn.prompt_ids.tolist(), *said[:-1]]
        for turn, following in pairwise(turns)
    ]
    assert len(rows) == 1 + is_prefix.count(False) == num_rows
