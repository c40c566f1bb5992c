"""The kernel: the only code that touches greenlet.

The rest of greenio waits through what is exported here, and in no other way.
"""

from . import _finalization as _finalization
from . import _fork as _fork
from ._asyncio import get_running_loop
from ._await import await_, drive, yield_once
from ._call import to_greenlet
from ._entry import (
    NativeWork,
    async_to_sync,
    current_loop,
    get_loop,
    in_greenlet,
    is_native_work,
    offload,
    run,
    spawn,
    sync_to_async,
)
from ._green import (
    READY,
    TIMED_OUT,
    Green,
    GreenletExit,
    Identity,
    as_native,
    current_green,
    forked_green,
    getcurrent,
    greens,
    park,
    resume,
    thread_state,
)
from ._host import Host, HostedThread, host_of, hosts
from ._interrupt import frame_of_parked, hand_to_loop, hand_to_parked, is_between_calls
from ._look import Pool, frames_of, function_of, host_if_any, is_busy, is_driving, pools
from ._parks import on_parks, parked_since, record_parks
from ._readiness import (
    HasFileno,
    Side,
    forget,
    reader,
    registrations,
    renew,
    retry,
    wait_readable,
    wait_writable,
    writer,
)
from ._tasks import eager_task_factory, task_factory
from ._timeouts import Timeout, timeout, timeout_at
from ._tracebacks import trim

__all__ = [
    "READY",
    "TIMED_OUT",
    "Green",
    "GreenletExit",
    "HasFileno",
    "Host",
    "HostedThread",
    "Identity",
    "NativeWork",
    "Pool",
    "Side",
    "Timeout",
    "as_native",
    "async_to_sync",
    "await_",
    "current_green",
    "current_loop",
    "drive",
    "eager_task_factory",
    "forget",
    "forked_green",
    "frame_of_parked",
    "frames_of",
    "function_of",
    "get_loop",
    "get_running_loop",
    "getcurrent",
    "greens",
    "hand_to_loop",
    "hand_to_parked",
    "host_if_any",
    "host_of",
    "hosts",
    "in_greenlet",
    "is_between_calls",
    "is_busy",
    "is_driving",
    "is_native_work",
    "offload",
    "on_parks",
    "park",
    "parked_since",
    "pools",
    "reader",
    "record_parks",
    "registrations",
    "renew",
    "resume",
    "retry",
    "run",
    "spawn",
    "sync_to_async",
    "task_factory",
    "thread_state",
    "timeout",
    "timeout_at",
    "to_greenlet",
    "trim",
    "wait_readable",
    "wait_writable",
    "writer",
    "yield_once",
]
