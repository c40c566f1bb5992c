"""Threads that green code starts, as greenlets of its loop: an option, since a thread that is none surprises many.

`asyncio.run` in such a thread works, as it does in any green; what blocks in C holds all of them. What asyncio, the
executors and multiprocessing start stays a real thread, and so does what async code starts. What the loop of such an
`asyncio.run` starts is a greenlet of the loop around it, and outlasts that one.
"""

from __future__ import annotations

import threading
from asyncio import CancelledError
from contextvars import Context
from types import FrameType

from .._core import Green, GreenletExit, Host, current_green, get_running_loop, spawn
from .._sync import GreenIdentity
from ._identity import is_of_the_thread
from ._table import Group, Patch
from ._thread_state import begin_thread

__all__ = ["GROUP", "start_greenlet", "starts_greenlet"]


class Switch:
    """Whether the threads that green code starts are to be greenlets."""

    on = False


def starts_greenlet(green: Green, thread: threading.Thread, caller: FrameType) -> bool:
    """Tell whether a thread that is being started is to be a greenlet."""
    return Switch.on and not green.visible and not thread._started.is_set() and not is_of_the_thread(caller)  # type: ignore[attr-defined]


def start_greenlet(green: Green, thread: threading.Thread) -> None:
    """Start `thread` as a greenlet of the loop of `green`. It runs from the loop's next turn on. Never parks."""
    identity = GreenIdentity()
    identity.joined = not thread.daemon
    begin_thread(thread, identity)
    if get_running_loop() is None:
        _spawn(green.host, thread, identity)
    else:  # a loop that the green runs, which would cancel the task at its end
        green.host.call_soon(_spawn, green.host, thread, identity)


def _spawn(host: Host, thread: threading.Thread, identity: GreenIdentity) -> None:
    threads = host.threads
    try:
        # As a new thread does it starts with an empty context.
        task = Context().run(spawn, _run, thread, identity)
    except BaseException:
        identity.end()
        raise
    task.set_name(thread.name)
    if task.done():
        return
    threads[task] = identity

    def forget(_: object) -> None:
        del threads[task]
        identity.end()  # the task may have been cancelled before it began

    task.add_done_callback(forget, context=Context())


def _run(thread: threading.Thread, identity: GreenIdentity) -> None:
    green = current_green()
    assert green is not None
    green.identity = identity
    cancels = green.cancels
    try:
        thread.run()
    except (GreenletExit, KeyboardInterrupt):
        raise  # Ctrl-C comes to whichever code the main thread runs, and is meant for the program
    except BaseException as error:
        if isinstance(error, CancelledError) and green.cancels != cancels:
            return  # the loop is coming to its end
        # `threading.excepthook`, with care for its errors; SystemExit too is left to it.
        thread._invoke_excepthook(thread)  # type: ignore[attr-defined]


GROUP = Group("green_threads", (Patch(Switch, "on", True),), needs=("threading",))
