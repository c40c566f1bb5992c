"""The name look-ups of `socket`: in green code they go through the host loop's resolver, off the loop's thread.

`getfqdn` and `create_connection` are Python functions that call these by their global names, and so follow.
"""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Callable
from typing import Any

from .. import _original
from .._core import current_green
from ._resolver import ask_executor, is_numeric, name_of, resolve
from ._table import Group, like, patches

__all__ = ["GROUP"]


@like(_original.getaddrinfo)
def getaddrinfo(host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> Any:
    green = current_green()
    if green is None:
        return _original.getaddrinfo(host, port, family, type, proto, flags)
    return resolve(green, host, port, family, type, proto, flags)


@like(_original.getnameinfo)
def getnameinfo(sockaddr: Any, flags: int, /) -> Any:
    green = current_green()
    if green is None or not isinstance(sockaddr, tuple):
        try:
            return _original.getnameinfo(sockaddr, flags)
        except BaseException:
            del sockaddr, flags  # a built-in has no frame in which a traceback keeps them alive
            raise
    return name_of(green, sockaddr, flags)


def _off_thread(
    native: Callable[..., Any], *, numeric_at_once: bool = False, one_at_a_time: bool = False
) -> Callable[..., Any]:
    """Make the green twin of a function that loops have no method for.

    Args:
        native: The function.
        numeric_at_once: It takes a host, and looks nothing up if that is an address in figures.
        one_at_a_time: No two threads may be in it.
    """
    ask = _one_at_a_time(native) if one_at_a_time else native

    def call(*args: Any) -> Any:
        green = current_green()
        if green is None or (numeric_at_once and args and is_numeric(args[0])):
            return ask(*args)
        return ask_executor(green, ask, *args)

    made: Callable[..., Any] = like(native)(call)
    return made


_asking = _original.RLock()
"""Held while the database of services or that of protocols is asked."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_asking._at_fork_reinit)  # type: ignore[attr-defined]  # a thread may hold it


def _one_at_a_time(native: Callable[..., Any]) -> Callable[..., Any]:
    """Keep other threads out of a function whose answer lies in one place of the C library's for all of them.

    CPython lets go of the interpreter while it asks, so that one thread may read what another has asked for (see
    getservent(3)). A program that has one thread must not get that from the threads that work for its greens.
    """

    @functools.wraps(native)
    def ask(*args: Any) -> Any:
        with _asking:
            return native(*args)

    return ask


_GREENS = [
    getaddrinfo,
    getnameinfo,
    *(_off_thread(native, numeric_at_once=True) for native in (socket.gethostbyname, socket.gethostbyname_ex)),
    _off_thread(socket.gethostbyaddr),
    *(
        _off_thread(native, one_at_a_time=True)
        for native in (socket.getservbyname, socket.getservbyport, socket.getprotobyname)
    ),
]

GROUP = Group("dns", patches(socket, _GREENS))
