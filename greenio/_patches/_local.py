"""`threading.local`."""

from __future__ import annotations

import _thread
import threading
from weakref import ref

from .. import _original
from .._sync import LOCAL_METHODS, OldLocal, local
from ._old_objects import Adoption, Look
from ._references import class_vars
from ._table import Group, Patch

__all__ = ["GROUP"]

_adoption = Adoption({_original.local: OldLocal})
_given: list[tuple[ref[type], str]] = []


def _reach_old_locals(look: Look) -> None:
    """Give subclasses that are older the methods, and put others around instances of the native class itself."""
    for owner in _original.local.__subclasses__():
        if owner is local or str(class_vars(owner).get("__module__")).partition(".")[0] in _LEFT_ALONE:
            continue
        own = {*class_vars(owner)}
        if not _OF_ACCESS.isdisjoint(own):
            continue
        for name in LOCAL_METHODS.keys() - own:
            type.__setattr__(owner, name, LOCAL_METHODS[name])
            _given.append((ref(owner), name))
    _adoption.do(look)


def _leave_old_locals() -> None:
    _adoption.undo()
    while _given:
        found, name = _given.pop()
        owner = found()
        if owner is not None and class_vars(owner).get(name) is LOCAL_METHODS[name]:
            type.__delattr__(owner, name)


_OF_ACCESS = LOCAL_METHODS.keys() - {"__new__"}
_LEFT_ALONE = ("asyncio", "concurrent", "greenio", "uvloop")

GROUP = Group(
    "local",
    (Patch(_thread, "_local", local), Patch(threading, "local", local)),
    do=_reach_old_locals,
    undo=_leave_old_locals,
    hidden={"threading.local": (_original.local, OldLocal)},
)
