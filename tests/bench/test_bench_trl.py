import importlib.util

import numpy as np
import pytest

from llmgym.bench.trl import Workload, make_episodes, run
from llmgym.bench.trl_rival import check_trl
from llmgym.errors import ConfigError

SMALL = Workload(
    models=("tiny",),
    num_groups=2,
    group_size=2,
    num_turns=3,
    observation_tokens=(3, 6),
    answer_tokens=(1, 3),
    prompt_tokens=(5, 9),
    long_answer_tokens=(2, 9),
    max_tokens=64,
    repeats=1,
)


def test_both_learn_the_same_from_the_same_batch() -> None:
    figures = run(SMALL).figures
    for kind in ("answers", "episodes"):
        episodes = make_episodes(SMALL, is_long=kind == "answers", vocab_size=300)
        assert figures[f"tiny_{kind}_cosine_of_what_both_learned"] > 0.999
        assert len(episodes) == 4
        assert figures[f"tiny_{kind}_ratio_llmgym_over_trl"] == pytest.approx(
            figures[f"tiny_{kind}_llmgym_tokens_per_second"] / figures[f"tiny_{kind}_trl_tokens_per_second"]
        )


def test_groups_begin_alike_and_half_of_each_succeeds() -> None:
    episodes = make_episodes(Workload(), is_long=False, vocab_size=300)
    for group in range(4):
        members = [episode for episode in episodes if episode.group == group]
        assert len({episode.turns[0][0] for episode in members}) == 1
        assert np.mean([episode.has_succeeded for episode in members]) == 0.5


def test_without_trl_the_package_to_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"Expected the package trl.*pip install 'llmgym\[bench\]'\."):
        check_trl()
