"""`multiprocessing.managers`: the locks that a manager makes, which its table holds since that module was imported.

The table is sent to a process that is spawned, by name. So it has to hold what is found under that name now.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

from .._sync import Lock, RLock

__all__ = ["exchange_manager_types", "restore_manager_types"]

_GREENS = {threading.Lock: Lock, threading.RLock: RLock}
_NATIVES = {green: native for native, green in _GREENS.items()}


def exchange_manager_types() -> None:
    """Have managers make the locks that greens wait for."""
    _exchange(_GREENS)


def restore_manager_types() -> None:
    """Take that back, also for a table that was made while patched."""
    _exchange(_NATIVES)


def _exchange(types: dict[Any, Any]) -> None:
    base = getattr(sys.modules.get("multiprocessing.managers"), "BaseManager", None)
    left = [] if base is None else [base]
    while left:
        manager = left.pop()
        left += manager.__subclasses__()
        registry = vars(manager).get("_registry", {})
        for name, (made_by, *rest) in tuple(registry.items()):
            for old, new in types.items():
                if made_by is old:
                    registry[name] = (new, *rest)
