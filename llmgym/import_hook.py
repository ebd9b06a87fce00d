"""Something to do as soon as a module is imported, without importing it. Knows no module by name.

Does what `wrapt.register_post_import_hook` does; importing wrapt takes 0.1 s, a fifth of what `llmgym --help` may take.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["call_after_import"]


def call_after_import(name: str, function: Callable[[], None]) -> None:
    """Call a function once a module is imported: now where it is already, else when it will be.

    >>> call_after_import("sys", lambda: print("sys is there"))
    sys is there
    """
    if name in sys.modules:
        function()
    else:
        sys.meta_path.insert(0, _Finder(name, function))


class _Finder:
    """Find one module with the finders that come after, and have its loader call a function when it is done."""

    def __init__(self, name: str, function: Callable[[], None]) -> None:
        self._name = name
        self._function = function

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None, /
    ) -> ModuleSpec | None:
        if name != self._name:
            return None
        # Only those that come after: two that wait for one module would ask each other for ever.
        others = sys.meta_path[sys.meta_path.index(self) + 1 :]
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_call(module: ModuleType) -> None:
            execute(module)
            # Only now: a spec may be asked for without an import, and an import may fail and be tried again.
            if self in sys.meta_path:
                sys.meta_path.remove(self)
                self._function()

        spec.loader.exec_module = execute_and_call  # type: ignore[method-assign]
        return spec
