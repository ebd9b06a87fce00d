"""The language of an environment, and the tokenizer that is made from it."""

import pytest

from llmgym.learner.tiny import build_tokenizer
from llmgym.run.language import sample_language
from llmgym.run.venv import make_env
from llmgym.text.prompt import Language, PromptSettings


@pytest.fixture(scope="module")
def babyai_language() -> tuple[list[str], list[str]]:
    return sample_language("llmgym/BabyAI-GoToLocalS6N2-v0", {}, seed=0)


def test_texts_are_prompts_and_phrases_hold_the_actions(babyai_language: tuple[list[str], list[str]]) -> None:
    texts, phrases = babyai_language
    assert any("\nGoal: go to the " in text and text.endswith("\nAction:") for text in texts)
    assert set(phrases) > {" turn left", " toggle", "\nObservation:", "\nAction:"}


def test_a_thing_is_one_token_wherever_it_is_named(babyai_language: tuple[list[str], list[str]]) -> None:
    tokenizer = build_tokenizer(*babyai_language, vocab_size=1000)
    text = "go to the red ball\nObservation: You see a wall 2 steps forward, You see a red ball 1 step left\nAction:"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert [tokenizer.decode([one]) for one in ids[-7:]] == [
        " red ball",
        "\nObservation:",
        " You see a",
        " wall 2 steps forward, You see a",
        " red ball",
        " 1 step left",
        "\nAction:",
    ]


def test_what_an_environment_says_is_made_of_its_phrases(babyai_language: tuple[list[str], list[str]]) -> None:
    tokenizer = build_tokenizer(*babyai_language, vocab_size=1000)
    env = make_env("llmgym/BabyAI-MixedTrainLocal-v0", {"kind": "open"})
    for seed in range(20):
        observation, info = env.reset(seed=seed)
        # A thing is what, a door in which state, and where; a wall is all in one. Places lead on to the next sentence.
        expected = 1 + sum(
            1 if "wall" in sentence else 3 if "door" in sentence else 2 for sentence in info["descriptions"]
        )
        ids = tokenizer.encode(" " + observation["text"], add_special_tokens=False)
        assert len(ids) == expected, observation["text"]
    env.close()


def test_unknown_words_are_still_written(babyai_language: tuple[list[str], list[str]]) -> None:
    tokenizer = build_tokenizer(*babyai_language, vocab_size=1000)
    text = "\nObservation: You see a crimson dax 1 step left"
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


@pytest.mark.parametrize(("language", "cue"), [("english", "\nAction to"), ("french", "\nAction pour")])
def test_a_goal_that_is_told_again_has_phrases_too(language: Language, cue: str) -> None:
    prompt = PromptSettings(restates_goal=True, language=language)
    texts, phrases = sample_language("llmgym/BabyAI-GoToLocalS6N2-v0", {}, seed=0, prompt=prompt)
    tokenizer = build_tokenizer(texts, phrases, vocab_size=1000)
    ids = tokenizer.encode(f"{cue} go to the red ball: turn left", add_special_tokens=False)
    assert [tokenizer.decode([one]) for one in ids] == [cue, " go to the", " red ball", ": turn left"]
