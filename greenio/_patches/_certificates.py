"""`ssl.SSLContext`: to read the certificates of authorities takes OpenSSL tens of milliseconds, so a thread does it.

Most drivers make a context for each connection. What comes in memory (`cadata`) is read under the interpreter's lock,
where a thread would be of no use.
"""

from __future__ import annotations

from ssl import SSLContext
from typing import Any

from ._resolver import ask_executor
from ._socket_state import green_caller
from ._table import like

__all__ = ["METHODS"]

_native_load = SSLContext.load_verify_locations
_native_default = SSLContext.set_default_verify_paths


@like(_native_load)
def load_verify_locations(self: SSLContext, cafile: Any = None, capath: Any = None, cadata: Any = None) -> None:
    if (cafile is None and capath is None) or (green := green_caller()) is None:
        return _native_load(self, cafile, capath, cadata)
    ask_executor(green, _native_load, self, cafile, capath, cadata)
    return None


@like(_native_default)
def set_default_verify_paths(self: SSLContext) -> None:
    green = green_caller()
    if green is None:
        return _native_default(self)
    ask_executor(green, _native_default, self)
    return None


METHODS = [load_verify_locations, set_default_verify_paths]
