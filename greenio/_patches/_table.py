"""What a patch file declares: which names it replaces, and by what."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

__all__ = ["Group", "Patch", "like", "patches"]


@dataclass(frozen=True)
class Patch:
    """One name of one module or class, and what stands there while it is patched.

    Attributes:
        owner: The module or the class.
        name: The name.
        green: What stands there.
        below: Told what stood there before, where that may be another group's.
        cooperates: Whether the native method itself waits by what is patched, so that it does no harm where somebody
            has taken it before.
    """

    owner: ModuleType | type
    name: str
    green: Any
    below: Callable[[Any], object] = lambda native: None
    cooperates: bool = False

    @property
    def target(self) -> str:
        """The full name of what is replaced, as in `socket.socket.recv`."""
        owner = self.owner
        prefix = owner.__name__ if isinstance(owner, ModuleType) else f"{owner.__module__}.{owner.__qualname__}"
        return f"{prefix}.{self.name}"


@dataclass(frozen=True)
class Group:
    """What one keyword of `patch_all` stands for.

    Attributes:
        name: The keyword.
        patches: The names that are replaced, in order.
        do: What deals with live objects after the names are replaced; it is given a `Look` at them.
        undo: What puts live objects back after the names are restored, as far as `do` came.
        missing: Why the group cannot be had on this platform; empty if it can.
        late: What makes the patches of a module, by its name, for modules that are patched when they are loaded.
        hidden: C types that have no public name, by the full name of what makes their objects, each with the class that
            stands for it while patched. Live objects of the first kind are out of reach.
        is_out_of_reach: Tells of an object of a hidden type whether it is so indeed.
        needs: The groups that are patched with it.
    """

    name: str
    patches: tuple[Patch, ...]
    do: Callable[[Any], object] = lambda look: None
    undo: Callable[[], None] = lambda: None
    missing: str = ""
    late: Mapping[str, Callable[[Any], tuple[Patch, ...]]] = field(default_factory=dict)
    hidden: Mapping[str, tuple[type, type]] = field(default_factory=dict)
    is_out_of_reach: Callable[[Any], bool] = lambda _: True
    needs: tuple[str, ...] = ()

    def loaded(self) -> tuple[Patch, ...]:
        """List the names that there are to replace: all but those of late modules that nobody has imported."""
        late = [make(sys.modules[name]) for name, make in self.late.items() if _is_loaded(name)]
        return sum(late, self.patches)


def _is_loaded(name: str) -> bool:
    """Tell whether a module is there as a whole, and not just being imported."""
    module = sys.modules.get(name)
    return module is not None and not getattr(module.__spec__, "_initializing", False)


def like(native: Any) -> Callable[[Any], Any]:
    """Give a function the name, the module and the docstring of the native one that it stands for."""

    def decorate(fn: Any) -> Any:
        functools.update_wrapper(fn, native, assigned=("__module__", "__name__", "__qualname__", "__doc__"), updated=())
        return fn

    return decorate


def patches(owner: ModuleType | type, greens: Iterable[Any], cooperates: bool = False) -> tuple[Patch, ...]:
    """Make the table of functions that were made `like` the natives of one owner; names it lacks are left out."""
    return tuple(
        Patch(owner, green.__name__, _placed(owner, green), cooperates=cooperates)
        for green in greens
        if hasattr(owner, green.__name__)
    )


def _placed(owner: ModuleType | type, green: Any) -> Any:
    """Name a green function by the place where it will be found, which is where pickle looks for it."""
    if not isinstance(green, FunctionType):
        return green
    native = getattr(green, "__wrapped__", None)
    if isinstance(owner, type):
        green.__module__ = owner.__module__
        green.__qualname__ = f"{owner.__qualname__}.{green.__name__}"
        return green
    green.__module__ = owner.__name__
    green.__qualname__ = green.__name__
    return _built_in(green, native) if isinstance(native, BuiltinFunctionType) else green


def _built_in(green: FunctionType, native: BuiltinFunctionType) -> Any:
    """Make a green function behave as the built-in one does: it shows itself so, and above all it never binds.

    `class Client: sleep = time.sleep` is right as long as `time.sleep` is written in C. Were a Python function in its
    place, `Client().sleep(1)` would pass the client as the seconds. functools.partial has the same defect from 3.14 on.
    Since `__call__` is a static method of a class made for this one function, there is no frame in between.
    """
    namespace = {
        "__slots__": ("__doc__", "__qualname__", "__weakref__", "__wrapped__"),
        "__call__": staticmethod(green),
        "__class__": property(lambda self: BuiltinFunctionType),
        "__module__": green.__module__,
        "__name__": native.__name__,
        "__reduce__": lambda self: self.__name__,
        "__repr__": lambda self: f"<built-in function {self.__name__}>",
        "__self__": native.__self__,
        "__text_signature__": getattr(native, "__text_signature__", None),
    }
    made: Any = type("builtin_function_or_method", (), namespace)()
    made.__doc__, made.__qualname__, made.__wrapped__ = native.__doc__, native.__qualname__, native
    return made
