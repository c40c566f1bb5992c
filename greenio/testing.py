"""What tests of programs that are half sync, half async need: a clock that jumps, states, leaks, faults.

Nothing here needs pytest; the fixtures for that are in `greenio.pytest_plugin`.
"""

from __future__ import annotations

from ._testing._clock import VirtualClockLoop
from ._testing._faults import Fault, Faults, faults
from ._testing._parked import assert_no_leaks, assert_parks, wait_until_parked

__all__ = [
    "Fault",
    "Faults",
    "VirtualClockLoop",
    "assert_no_leaks",
    "assert_parks",
    "faults",
    "wait_until_parked",
]
