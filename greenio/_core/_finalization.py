"""The end of the interpreter, where greenlet does not tell any more which greenlet is the current one.

Finalizers still run while modules are torn down, and take locks: logging has one for every handler. From then on
`greenlet.getcurrent` raises RuntimeError, in greenlet 3.5.0 it returns None, and in 3.4.0 that begins with an atexit
callback. No green can run there, so who asks is native. As a check in each of the places that ask would slow down every
call, an atexit callback has them all ask a function that checks. Callbacks of atexit may use greens before it and after
it; it comes late, since it was registered when greenio was imported.
"""

from __future__ import annotations

import atexit
import sys
from typing import Any, Final

import greenlet

__all__: list[str] = []

_PACKAGE: Final = __name__.removesuffix("_core._finalization")


class _Native:
    parent = None


def _getcurrent(getcurrent: Any = greenlet.getcurrent, native: Any = _Native) -> Any:
    try:
        current = getcurrent()
    except RuntimeError:
        return native
    return native if current is None else current


def _check_from_now_on() -> None:
    for name, module in list(sys.modules.items()):
        if name.startswith(_PACKAGE) and getattr(module, "getcurrent", None) is greenlet.getcurrent:
            module.getcurrent = _getcurrent  # type: ignore[attr-defined]


atexit.register(_check_from_now_on)
