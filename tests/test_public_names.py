import ast
import subprocess
import sys
from pathlib import Path

import pytest

import llmgym

HEAVY = ("torch", "vllm", "transformers", "gymnasium", "minigrid", "numpy")


def test_public_names_are_these() -> None:
    assert llmgym.__all__ == ["Learner", "__version__", "evaluate", "load_engine", "train"]
    assert set(llmgym.__all__) - {"__version__"} == set(llmgym._MODULES)
    assert set(llmgym.__all__) <= set(dir(llmgym))


def test_type_checkers_read_the_names_from_the_same_modules() -> None:
    tree = ast.parse(Path(llmgym.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert {alias.name: node.module for node in imports for alias in node.names} == llmgym._MODULES


@pytest.mark.parametrize("name", llmgym.__all__)
def test_public_name_can_be_imported(name: str) -> None:
    assert getattr(llmgym, name) is not None


def test_an_unknown_name_is_an_attribute_error_that_tells_the_known_ones() -> None:
    with pytest.raises(AttributeError, match=r"module 'llmgym' has no attribute 'trian'; it has .*train"):
        llmgym.trian  # noqa: B018


def test_importing_llmgym_loads_nothing_heavy() -> None:
    script = f"import sys, llmgym\nprint([name for name in {HEAVY} if name in sys.modules], llmgym.__version__)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"[] {llmgym.__version__}\n"
