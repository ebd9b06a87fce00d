import subprocess
import sys

import gymnasium
import minigrid
import pytest

import llmgym  # noqa: F401
from llmgym.envs.babyai import LEVELS, PAPER_LEVELS

HEAVY = ("torch", "vllm", "transformers", "minigrid")


def run(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("imports", ["import gymnasium, llmgym", "import llmgym, gymnasium"])
def test_ids_are_registered_in_either_import_order_and_nothing_heavy_is_loaded(imports: str) -> None:
    script = (
        f"{imports}\nimport sys\n"
        "print(sum(name.startswith('llmgym/BabyAI-') for name in gymnasium.registry))\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    assert run(script).split("\n")[:2] == [str(len(LEVELS) + len(PAPER_LEVELS)), "[]"]


def test_gymnasium_finds_an_id_by_its_module_prefix_and_making_it_prints_nothing() -> None:
    script = "import gymnasium\nenv = gymnasium.make('llmgym:llmgym/BabyAI-GoToLocal-v0')\nenv.reset(seed=0)"
    assert run(script) == ""


def test_the_levels_are_those_of_minigrid() -> None:
    prefix = "BabyAI-"
    registered = [name.removeprefix(prefix) for name in gymnasium.registry if name.startswith(prefix)]
    assert sorted(LEVELS) == sorted(registered), f"minigrid {minigrid.__version__} has other levels"
    assert not set(LEVELS) & set(PAPER_LEVELS)


def test_an_id_that_is_nearly_right_is_suggested() -> None:
    with pytest.raises(gymnasium.error.NameNotFound, match="Did you mean: `BabyAI-GoToLocal`"):
        gymnasium.make("llmgym/BabyAI-GoToLocl-v0")
