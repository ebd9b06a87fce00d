"""Encoding without the wrapper, against the wrapper."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llmgym.engine.scripted_engine import ByteTokenizer
from llmgym.learner.tiny import TinySettings, build_tiny_model
from llmgym.text.encoding import text_encoder

TEXTS = (
    "",
    "You see a red ball 2 steps left",
    "\nObservation: You see a wall 1 step forward\nAction:",
    " go forward",
    "<|endoftext|> is only text, äöü 漢字 🙂\t\n  ",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    sizes = TinySettings(vocab_size=300, hidden_size=32, num_layers=1, num_heads=1, intermediate_size=64)
    build_tiny_model(folder, TEXTS, (" go forward", "\nObservation:", "\nAction:"), sizes, seed=0)
    return folder


@pytest.mark.parametrize("splits", [True, False])
def test_encodes_as_the_tokenizer_does(folder: Path, splits: bool) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder, split_special_tokens=splits)
    encode = text_encoder(tokenizer)
    for _ in range(2):
        for text in TEXTS:
            assert encode(text) == tokenizer.encode(text, add_special_tokens=False)


def test_settings_that_other_calls_leave_behind_change_nothing(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder, split_special_tokens=True)
    encode = text_encoder(tokenizer)
    expected = [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS]
    for text, ids in zip(TEXTS, expected, strict=True):
        tokenizer(TEXTS[1], truncation=True, max_length=2, padding="max_length", split_special_tokens=False)
        assert encode(text) == ids


def test_a_tokenizer_with_a_way_of_its_own_is_asked(folder: Path) -> None:
    class Shouting(PreTrainedTokenizerFast):
        def encode(self, text: str, **options: object) -> list[int]:
            return super().encode(text.upper(), **options)

    tokenizer = Shouting.from_pretrained(folder)
    assert text_encoder(tokenizer)("go") == tokenizer.encode("go", add_special_tokens=False)
    assert text_encoder(ByteTokenizer())("go") == [103, 111]
