"""Eyes: what holds the loop, what each task and greenlet waits for, and who waits for whom.

Nothing of this is on, or costs anything, before it is called. `monkey.patch_all(on_blocking="warn")` finds the calls
that would hold the loop; what is here looks at a program that runs.
"""

from __future__ import annotations

from ._deadlocks import Deadlock, LockWait, deadlocks
from ._listener import Listener, dump_on_signal, inspect, listen
from ._recorder import Recorder, record
from ._run_info import GreenInfo, LoopInfo, PoolInfo, Registration, RunInfo, TaskInfo, print_run_info, run_info
from ._stacks import Frame
from ._waits import Wait
from ._watchdog import Hold, Watchdog, WatchdogStats, watchdog

__all__ = [
    "Deadlock",
    "Frame",
    "GreenInfo",
    "Hold",
    "Listener",
    "LockWait",
    "LoopInfo",
    "PoolInfo",
    "Recorder",
    "Registration",
    "RunInfo",
    "TaskInfo",
    "Wait",
    "Watchdog",
    "WatchdogStats",
    "deadlocks",
    "dump_on_signal",
    "inspect",
    "listen",
    "print_run_info",
    "record",
    "run_info",
    "watchdog",
]
