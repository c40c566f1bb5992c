"""The name look-ups of `socket`: in green code they go through the host loop's resolver, off the loop's thread.

`getfqdn` and `create_connection` are Python functions that call these by their global names, and so follow.
"""

from __future__ import annotations

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


def _off_thread(native: Callable[..., Any], *, numeric_at_once: bool) -> Callable[..., Any]:
    """Make the green twin of a function that loops have no method for.

    Args:
        native: The function.
        numeric_at_once: It takes a host, and looks nothing up if that is an address in figures.
    """

    def call(*args: Any) -> Any:
        green = current_green()
        if green is None or (numeric_at_once and args and is_numeric(args[0])):
            return native(*args)
        return ask_executor(green, native, *args)

    made: Callable[..., Any] = like(native)(call)
    return made


_GREENS = [
    getaddrinfo,
    getnameinfo,
    *(_off_thread(native, numeric_at_once=True) for native in (socket.gethostbyname, socket.gethostbyname_ex)),
    *(
        _off_thread(native, numeric_at_once=False)
        for native in (socket.gethostbyaddr, socket.getservbyname, socket.getservbyport, socket.getprotobyname)
    ),
]

GROUP = Group("dns", patches(socket, _GREENS))
