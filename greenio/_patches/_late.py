"""Modules that are patched when somebody imports them, so that patching imports nothing that a program does not use.

While any are awaited, a finder stands first in `sys.meta_path`. It finds what the others find, and has the loader call
back when the module has run. The loader that the module shows is the native one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, TypeAlias

__all__ = ["await_module", "stop_awaiting"]

Then: TypeAlias = Callable[[ModuleType], None]

_awaited: dict[str, Then] = {}


class _Finder:
    """Finds the modules that are awaited, by whatever other finder knows them."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module that is awaited; for any other, leave it to those that come next."""
        then = _awaited.get(name)
        if then is None:
            return None
        for finder in tuple(sys.meta_path):
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = _Loader(spec.loader, then)
                return spec
        return None


class _Loader(Loader):
    """Runs a module by its own loader, and then calls back."""

    def __init__(self, native: Any, then: Then) -> None:
        self._native = native
        self._then = then

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Make the module as its own loader does."""
        spec.loader = self._native
        try:
            return self._native.create_module(spec)  # type: ignore[no-any-return]
        finally:
            spec.loader = self

    def exec_module(self, module: ModuleType) -> None:
        """Run the module."""
        module.__loader__ = self._native
        if module.__spec__ is not None:
            module.__spec__.loader = self._native
        self._native.exec_module(module)
        self._then(module)


_finder: Any = _Finder()


def await_module(name: str, then: Then) -> None:
    """Have `then` called with a module, when it has been imported."""
    _awaited[name] = then
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


def stop_awaiting(names: Iterable[str]) -> None:
    """Let modules be imported as ever."""
    for name in names:
        _awaited.pop(name, None)
    if not _awaited and _finder in sys.meta_path:
        sys.meta_path.remove(_finder)
