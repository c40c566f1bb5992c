"""`threading.local`."""

from __future__ import annotations

import _thread
import threading

from .. import _original
from .._sync import OldLocal, local
from ._old_objects import Adoption
from ._table import Group, Patch

__all__ = ["GROUP"]

_adoption = Adoption({_original.local: OldLocal})

GROUP = Group(
    "local",
    (Patch(_thread, "_local", local), Patch(threading, "local", local)),
    do=_adoption.do,
    undo=_adoption.undo,
    hidden={"threading.local": (_original.local, OldLocal)},
)
