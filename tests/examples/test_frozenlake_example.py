import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "frozenlake_as_text.py"


def test_frozenlake_example_reaches_the_goal(capsys: pytest.CaptureFixture[str]) -> None:
    assert runpy.run_path(str(EXAMPLE))["main"]() == 1.0
    told = capsys.readouterr().out.splitlines()
    assert told[:3] == [
        "Mission: reach the goal without falling into a hole",
        "You stand on the start, if you go down you reach ice, if you go right you reach ice",
        "> go down",
    ]
    assert told[-1] == "Reward 1.0, terminated: True"
