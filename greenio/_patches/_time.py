"""`time.sleep`, and the default argument of `sched.scheduler`, which waits by that."""

from __future__ import annotations

import sys
import time
from operator import index
from typing import Any

from .. import _original
from .._core import TIMED_OUT, Green, current_green, getcurrent, park, yield_once
from ._table import Group, like, patches

__all__ = ["GROUP"]

_NANOSECONDS = 10**9
_TOO_LONG = 2**63
"""Nanoseconds that do not fit into the C type for times."""


@like(time.sleep)
def sleep(seconds: float, /) -> None:
    green: Any = getcurrent()
    if green.__class__ is not Green and (green.parent is None or (green := current_green()) is None):
        return _original.sleep(seconds)
    if not isinstance(seconds, float):
        seconds = index(seconds)  # Fraction and Decimal raise TypeError, as they do natively
    if seconds == 0:
        return yield_once(green)  # without the native call, which holds the thread for some 60 us from 3.11 on
    if not 0 < seconds * _NANOSECONDS < _TOO_LONG:
        _original.sleep(seconds)  # negative, NaN or too long: raises
    green.what = "time.sleep"
    deadline = green.host.clock() + seconds
    while park(green, deadline, green.parks) is not TIMED_OUT:
        pass
    return None


def _exchange_in_sched(old: Any, new: Any) -> None:
    if (scheduler := getattr(sys.modules.get("sched"), "scheduler", None)) is not None:
        init = scheduler.__init__
        init.__defaults__ = tuple(new if value is old else value for value in init.__defaults__)


_PATCHES = patches(time, [sleep])

GROUP = Group(
    "time",
    _PATCHES,
    do=lambda look: _exchange_in_sched(_original.sleep, _PATCHES[0].green),
    undo=lambda: _exchange_in_sched(_PATCHES[0].green, _original.sleep),
)
