"""`os.open` of a named pipe, which natively blocks until somebody opens the other end.

Nobody tells when that happens, except a thread that waits in the kernel, and such a thread cannot be called off. So the
call is tried with O_NONBLOCK, again after delays that grow up to a bound. A writer that finds no reader fails with
ENXIO, and tries again. A reader is let in at once, and counts as one, as it does natively while it waits; `tee` tells,
without taking anything, whether there is a writer. The standard library does not have it, so ctypes calls it.

The descriptor is new, and nobody else's, so that it is put in the blocking mode at the end.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from typing import Any

from .. import _original
from .._core import Green, forget
from .._sync import Lock
from ._attempts import is_ready
from ._libc import find_call
from ._socket_state import green_caller
from ._table import like, patches

__all__ = ["PATCHES", "do", "undo"]

_native_open = os.open

_SHORTEST, _LONGEST = 0.001, 0.02
"""Seconds between two attempts, at first and at most."""

_NONBLOCK = 1
"""SPLICE_F_NONBLOCK."""

_NEVER_WAITS = os.O_NONBLOCK | getattr(os, "O_PATH", 0)


def _has_writer(fd: int, scratch: int) -> bool:
    """Tell whether somebody writes to a pipe, or has written; a scratch pipe takes a copy of what there is."""
    if is_ready(fd, "read"):
        return True  # octets, or a writer that has come and gone
    found = find_call("tee")
    assert found is not None
    ctypes, libc = found
    if libc.tee(fd, scratch, 1, _NONBLOCK) >= 0:
        return False  # the end of the file, which means that there is none
    error = ctypes.get_errno()
    if error != errno.EAGAIN:
        raise OSError(error, os.strerror(error))
    return True


def _pause(green: Green, delay: float) -> float:
    """Park for a while; return how long to do so the next time."""
    turn = Lock()
    turn.acquire()
    green.what = "os.open"
    turn.acquire(True, delay)
    return min(2 * delay, _LONGEST)


def _open_to_write(green: Green, path: Any, flags: int, mode: int, dir_fd: int | None) -> int:
    delay = _SHORTEST
    while True:
        try:
            return _native_open(path, flags | os.O_NONBLOCK, mode, dir_fd=dir_fd)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
        delay = _pause(green, delay)


def _open_to_read(green: Green, path: Any, flags: int, mode: int, dir_fd: int | None) -> int:
    fd = _native_open(path, flags | os.O_NONBLOCK, mode, dir_fd=dir_fd)
    scratch = os.pipe()
    delay = _SHORTEST
    try:
        while not _has_writer(fd, scratch[1]):
            delay = _pause(green, delay)
    except BaseException:
        forget(fd)
        _original.close(fd)
        raise
    finally:
        _original.close(scratch[0])
        _original.close(scratch[1])
    return fd


def _waits(path: Any, flags: Any, dir_fd: int | None) -> bool:
    """Tell whether to open this waits for somebody."""
    if not isinstance(flags, int) or flags & _NEVER_WAITS or flags & os.O_ACCMODE == os.O_RDWR:
        return False
    try:
        return stat.S_ISFIFO(os.stat(path, dir_fd=dir_fd).st_mode)
    except (OSError, TypeError, ValueError):
        return False  # it is about to be made, or the native call says what is wrong


@like(_native_open)
def open(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
    green = green_caller()
    if green is None or not _waits(path, flags, dir_fd) or find_call("tee") is None:
        return _native_open(path, flags, mode, dir_fd=dir_fd)
    return _open_parking(green, path, flags, mode, dir_fd)


def _open_parking(green: Green, path: Any, flags: int, mode: int, dir_fd: int | None) -> int:
    """Open a named pipe as soon as somebody has the other end. Parks."""
    find = _open_to_read if flags & os.O_ACCMODE == os.O_RDONLY else _open_to_write
    fd = find(green, path, flags, mode, dir_fd)
    _original.set_blocking(fd, True)
    return fd


PATCHES = patches(os, [open] if sys.platform == "linux" else [])


def do() -> None:
    """Say of the green function what `os` says of the native one: that it takes `dir_fd`. Never parks."""
    if _native_open in os.supports_dir_fd:
        os.supports_dir_fd.update(patch.green for patch in PATCHES)


def undo() -> None:
    """Take that back. Never parks."""
    os.supports_dir_fd.difference_update(patch.green for patch in PATCHES)
