"""Row 7: what native code pays once everything is patched."""

from __future__ import annotations

from .._model import Contender, Row, Target
from ..servers import echo_load
from . import echo

_ALLOWED = 1 / 1.03
"""At most 3 % more."""
_THREADS = 4


def _pair(name: str) -> Target:
    return Target(f"{name}, patched", f"{name}, native", _ALLOWED, "cpu")


LOOPS = Row(
    7,
    "native-loops",
    f"echo streams of asyncio and uvloop, {echo.CONNECTIONS} connections, after patch_all() and without it",
    (
        Contender("asyncio, patched", echo.streams, {"loop": "asyncio", "patch": True}),
        Contender("asyncio, native", echo.streams, {"loop": "asyncio"}),
        Contender("uvloop, patched", echo.streams, {"loop": "uvloop", "patch": True}, ("uvloop",)),
        Contender("uvloop, native", echo.streams, {"loop": "uvloop"}, ("uvloop",)),
    ),
    (_pair("asyncio"), _pair("uvloop")),
    columns=("rate", "cpu", "busy", "waited", "client"),
    first=2000,
    load=echo_load.echo_load,
    load_options={"connections": echo.CONNECTIONS},
)

THREAD = Row(
    7,
    "native-thread",
    f"echo by {_THREADS} native threads in blocking recv and sendall, after patch_all() and without it",
    (
        Contender("threads, patched", echo.threads, {"connections": _THREADS, "patch": True}),
        Contender("threads, native", echo.threads, {"connections": _THREADS}),
    ),
    (_pair("threads"),),
    columns=("rate", "cpu", "busy", "waited", "client"),
    first=1000,
    load=echo_load.echo_load,
    load_options={"connections": _THREADS},
)

ROWS = (LOOPS, THREAD)
