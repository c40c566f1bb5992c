"""`os.close`: whoever is parked at the descriptor wakes with EBADF, and its registration goes before the number does.

This row is part of the group "socket" and of the group "os", since either may be patched alone.
"""

from __future__ import annotations

import os

from .._core import forget
from ._table import like, patches

__all__ = ["CLOSE"]

_native_close = os.close


@like(_native_close)
def close(fd: int) -> None:
    if fd.__class__ is int:
        forget(fd)
    _native_close(fd)


CLOSE = patches(os, [close])
