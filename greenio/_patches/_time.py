"""`time.sleep`."""

from __future__ import annotations

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


GROUP = Group("time", patches(time, [sleep]))
