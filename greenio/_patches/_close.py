"""What is done to sockets by their numbers: `os.close`, `os.dup2` and `os.set_blocking`.

Where a number is closed or gets another file, whoever is parked there wakes with EBADF; its registration goes first.
These rows are part of the group "socket" and of the group "os", since either may be patched alone.
"""

from __future__ import annotations

import os
import stat

from .._core import forget
from ._socket_state import note_mode, note_new_file
from ._table import like, patches

__all__ = ["CLOSE"]

_native_close = os.close


@like(_native_close)
def close(fd: int) -> None:
    if fd.__class__ is int:
        forget(fd)
    _native_close(fd)


_native_dup2 = os.dup2


@like(_native_dup2)
def dup2(fd: int, fd2: int, inheritable: bool = True) -> int:
    if fd.__class__ is not int or fd2.__class__ is not int or fd == fd2 or not _is_open(fd):
        return _native_dup2(fd, fd2, inheritable)
    forget(fd2)
    try:
        return _native_dup2(fd, fd2, inheritable)
    finally:
        note_new_file(fd2)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


_native_set_blocking = os.set_blocking


@like(_native_set_blocking)
def set_blocking(fd: int, blocking: bool, /) -> None:
    _native_set_blocking(fd, blocking)
    if stat.S_ISSOCK(os.fstat(fd).st_mode):
        note_mode(fd)


CLOSE = patches(os, [close, dup2, set_blocking])
