"""A descriptor that can be read when a signal is pending: Linux's signalfd, which the standard library does not have.

It is only ever polled. What a poll tells is what is pending for the thread that polls, and for the process: the thread
of the loop asks, in its own `epoll_wait`, and it is the same thread that takes the signal.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from ._libc import find_call

__all__ = ["open_signalfd"]

_SIGSET_SIZE = 1024
"""Octets that a `sigset_t` surely fits into; glibc and musl need 128."""


def open_signalfd(signals: Iterable[int]) -> int | None:
    """Open a descriptor that is readable while one of the signals is pending. Never parks.

    Returns:
        The descriptor; None on platforms that have none.

    Raises:
        OSError: There are too many open.
    """
    found = find_call("signalfd")
    if found is None:
        return None
    ctypes, libc = found
    mask = ctypes.create_string_buffer(_SIGSET_SIZE)
    libc.sigemptyset(mask)
    for signum in signals:
        libc.sigaddset(mask, ctypes.c_int(signum))
    fd: int = libc.signalfd(-1, mask, os.O_CLOEXEC | os.O_NONBLOCK)
    if fd < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return fd
