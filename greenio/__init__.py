"""greenio: blocking code in asyncio programs, on the loop's own thread.

`await to_greenlet(fn, *args)` gives what `await asyncio.to_thread(fn, *args)` gives, and while `fn` waits for a socket
or a clock the loop goes on. `greenio.monkey.patch_all()` makes the blocking calls of the standard library wait so.
Importing this package patches nothing and starts nothing.
"""

import sys as _sys

from ._async import GreenletPoolExecutor, autosync, enter, install, iterate, uninstall
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
    task_factory,
    timeout,
    timeout_at,
    to_greenlet,
    wait_readable,
    wait_writable,
)

if _sys.version_info >= (3, 12):
    from ._core import eager_task_factory as eager_task_factory

__all__ = [
    "GreenletPoolExecutor",
    "Timeout",
    "async_to_sync",
    "autosync",
    "await_",
    "enter",
    "get_loop",
    "in_greenlet",
    "install",
    "iterate",
    "offload",
    "run",
    "spawn",
    "sync_to_async",
    "task_factory",
    "timeout",
    "timeout_at",
    "to_greenlet",
    "uninstall",
    "wait_readable",
    "wait_writable",
]

if _sys.version_info >= (3, 12):
    __all__ += ["eager_task_factory"]
    __all__.sort()

__version__ = "0.1.0"
