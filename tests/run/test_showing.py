"""What a clone is shown, and in which order: lessons that fade into each other, then what the environment is."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from itertools import islice

import pytest

from llmgym.config import CloneSettings, Lesson, RunConfig
from llmgym.errors import ConfigError
from llmgym.rollout.demonstrations import ADVISED
from llmgym.rollout.recording import Episode
from llmgym.run.showing import check_demonstrations, demonstration_seeds, faded, shown_episodes
from llmgym.settings import from_dict, to_toml

LEVEL = "llmgym/BabyAI-GoToLocalS6N2-v0"
ALONE = Lesson(6, {"num_dists": 1})


def num_things(episode: Episode) -> int:
    return len(set(re.findall(r"\w+ (?:ball|key|box)", " ".join(episode.texts))))


def shown(clone: CloneSettings) -> Sequence[Episode]:
    return list(shown_episodes(RunConfig(LEVEL, clone=clone)))


def test_a_lesson_comes_first_and_its_last_third_among_what_follows() -> None:
    episodes = shown(CloneSettings(episodes=3, lessons=(ALONE,)))
    order = faded([6, 3])
    assert order == [0, 0, 0, 0, 0, 1, 0, 1, 1]
    lesson = [episode for episode, number in zip(episodes, order, strict=True) if number == 0]
    rest = [episode for episode, number in zip(episodes, order, strict=True) if number == 1]
    assert all(num_things(episode) <= 1 for episode in lesson)
    assert [episode.seed for episode in rest] == list(islice(demonstration_seeds(0), 3)), "as without lessons"
    assert len({episode.seed for episode in episodes}) == 9


def test_lessons_may_be_all_and_two_of_them_differ() -> None:
    episodes = shown(CloneSettings(lessons=(ALONE, ALONE)))
    assert len({episode.seed for episode in episodes}) == 12
    assert all(num_things(episode) <= 1 for episode in episodes)


def test_a_hand_slips_in_those_lessons_only_that_say_nothing_else() -> None:
    clone = CloneSettings(episodes=2, lessons=(Lesson(2, slips=0.0), Lesson(2)), slips=0.4)
    order = faded([2, 2, 2])
    slipping = {number for number, episode in zip(order, shown(clone), strict=True) if ADVISED in episode.infos}
    assert slipping == {1, 2}


def test_slips_of_a_lesson_are_a_share() -> None:
    with pytest.raises(ConfigError, match=r"clone\.lessons\[1\]\.slips from 0 to below 1, found 1\.5"):
        RunConfig(LEVEL, clone=CloneSettings(lessons=(ALONE, Lesson(1, slips=1.5))))


def test_lessons_read_back_from_the_file_of_a_run() -> None:
    config = RunConfig(LEVEL, clone=CloneSettings(episodes=2, lessons=(ALONE, Lesson(1, slips=0.5))))
    assert from_dict(RunConfig, tomllib.loads(to_toml(config))) == config


def test_a_lesson_of_an_environment_without_an_expert_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"an environment with an expert to clone, found 'llmgym/CartPole-v0'"):
        check_demonstrations(RunConfig("llmgym/CartPole-v0", clone=CloneSettings(lessons=(Lesson(1),))))
