"""greenio: blocking code in asyncio programs, on the loop's own thread.

`await to_greenlet(fn, *args)` gives what `await asyncio.to_thread(fn, *args)` gives, and while `fn` waits for a socket
or a clock the loop goes on. `greenio.monkey.patch_all()` makes the blocking calls of the standard library wait so.
Importing this package patches nothing and starts nothing.
"""

from ._core import (
    Timeout,
    async_to_sync,
    await_,
    get_loop,
    in_greenlet,
    offload,
    run,
    spawn,
    sync_to_async,
    timeout,
    timeout_at,
    to_greenlet,
    wait_readable,
    wait_writable,
)

__all__ = [
    "Timeout",
    "async_to_sync",
    "await_",
    "get_loop",
    "in_greenlet",
    "offload",
    "run",
    "spawn",
    "sync_to_async",
    "timeout",
    "timeout_at",
    "to_greenlet",
    "wait_readable",
    "wait_writable",
]

__version__ = "0.1.0"
