import importlib
import importlib.util
import sys
from pathlib import Path

import pytest

from llmgym.import_hook import call_after_import


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a module that can be imported, and sees at its first line whether the file `broken` is there."""
    name = "a_module_to_wait_for"
    source = "from pathlib import Path\nassert not Path(__file__).with_name('broken').exists()\nVALUE = 3\n"
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, name, raising=False)
    return name


def test_function_is_called_once_after_the_module_is_complete(module: str) -> None:
    finders, calls = list(sys.meta_path), []
    call_after_import(module, lambda: calls.append(sys.modules[module].VALUE))
    assert calls == []
    imported = importlib.import_module(module)
    assert calls == [3]
    assert sys.meta_path == finders
    importlib.reload(imported)
    assert calls == [3]
    call_after_import(module, lambda: calls.append(-1))
    assert calls == [3, -1]


def test_looking_for_the_module_does_not_use_the_call_up(module: str) -> None:
    calls: list[int] = []
    call_after_import(module, lambda: calls.append(1))
    assert importlib.util.find_spec(module) is not None
    assert calls == []
    importlib.import_module(module)
    assert calls == [1]


def test_an_import_that_fails_is_waited_for_again(module: str, tmp_path: Path) -> None:
    calls: list[int] = []
    call_after_import(module, lambda: calls.append(1))
    (tmp_path / "broken").touch()
    with pytest.raises(AssertionError):
        importlib.import_module(module)
    (tmp_path / "broken").unlink()
    assert calls == []
    importlib.import_module(module)
    assert calls == [1]


def test_several_functions_wait_for_one_module(module: str) -> None:
    calls: list[str] = []
    call_after_import(module, lambda: calls.append("first"))
    call_after_import(module, lambda: calls.append("second"))
    importlib.import_module(module)
    assert sorted(calls) == ["first", "second"]


def test_a_module_that_does_not_exist_stays_an_import_error() -> None:
    finders = list(sys.meta_path)
    call_after_import("no_such_module_anywhere", lambda: None)
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_module_anywhere'"):
        importlib.import_module("no_such_module_anywhere")
    sys.meta_path[:] = finders
