import gymnasium
import pytest

import llmgym  # noqa: F401
from llmgym.envs.babyai import LEVELS, PAPER_LEVELS, translate_mission
from llmgym.errors import EnvError


@pytest.mark.parametrize(
    ("mission", "french"),
    [
        ("go to the red ball", "aller à la balle rouge"),
        ("pick up a box", "ramasser une boîte"),
        ("pick up the grey object", "ramasser la chose grise"),
        ("open the yellow door, then pick up the key", "ouvrir la porte jaune, puis ramasser la clef"),
        (
            "put a grey key next to the blue box after you open a door on your left",
            "mettre une clef grise à côté de la boîte bleue après avoir ouvert une porte à ta gauche",
        ),
        (
            "go to a door behind you and pick up the ball after you go to a key and put the box next to a ball",
            "aller à une porte derrière toi et ramasser la balle après être allé à une clef et avoir mis la boîte à "
            "côté de une balle",
        ),
    ],
)
def test_missions_are_translated_clause_by_clause(mission: str, french: str) -> None:
    assert translate_mission(mission) == french
    assert translate_mission(mission, "english") == mission


@pytest.mark.parametrize("level", [*LEVELS, *PAPER_LEVELS])
def test_the_missions_of_all_levels_have_a_translation(level: str) -> None:
    env = gymnasium.make(f"llmgym/BabyAI-{level}", parity=False, language="french", disable_env_checker=True)
    for seed in range(12):
        mission = env.reset(seed=seed)[0]["mission"]
        assert not {"the", "to", "up", "you", "next", "open"} & set(mission.split()), mission


def test_what_is_no_mission_is_refused() -> None:
    with pytest.raises(EnvError, match="got 'go to the sun', where 'go to the sun' is not understood"):
        translate_mission("go to the sun")
