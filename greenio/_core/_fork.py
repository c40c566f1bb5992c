"""Forks: the child is native.

A child inherits the greenlet that forked, and nobody who could resume it: the loop belongs to the parent. So in the
child that greenlet, and those it was started from, stop being green, and what they call blocks, as in any new process.
`sys.exit` ends the child where it is called: on its way out it must not meet the parent's loop, which shares its epoll
with the parent's, and would run the `finally` blocks of the parent's tasks.

Greenlets that were parked stay so for ever. Nobody may resume them, whatever the child does with its copy of the loop,
and it must not even let go of them, since that would raise GreenletExit in them.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from typing import Any, NoReturn

from ._asyncio import get_hooks, set_hooks
from ._green import PARKED, Abandoned, Forked, Green, ThreadState, getcurrent, greenlet, greens, thread_state
from ._readiness import forget_parent

__all__ = ["leave"]

_ENDS = ((threading, "_shutdown"), (atexit, "_run_exitfuncs"))
"""What the interpreter calls at its end, in its order: threads that are no daemons, and executors, end first."""

_inherited: list[Any] = []


def _after_fork_in_child() -> None:
    forked = _chain()
    for green in forked:
        green.__class__ = Forked
        green.thread = ThreadState()  # at its end it comes to rest where nobody looks for it
    for green in greens():
        if green.__class__ is Green and green.task is not None:
            _abandon(green)
    thread_state().active = None
    forget_parent()
    if forked:
        set_hooks(None, None)
    host = getattr(getattr(get_hooks()[0], "__self__", None), "_greenio_host", None)
    if host is not None:
        host.hook = None  # the loop runs in the parent only: let asyncio say so


def _chain() -> list[Green]:
    """List the greens that run: the current one, and those that wait for it."""
    current: Any = getcurrent()
    chain = []
    while current is not None:
        if current.__class__ is Green:
            chain.append(current)
        current = current.parent
    return chain


def _abandon(green: Green) -> None:
    _inherited.append((green, getattr(green, "leaf", None)))  # no leaf: it has not parked yet, in another thread
    green.__class__ = Abandoned
    green.waiting = False
    # Should a resume be under way in the child's copy of the loop, it ends here.
    green.leaf = greenlet(lambda _: PARKED)


def leave(error: SystemExit) -> NoReturn:
    """Exit a forked child as the interpreter does for SystemExit."""
    code = error.code
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    for module, name in _ENDS:
        try:
            getattr(module, name, lambda: None)()
        except BaseException:  # as the interpreter does, shown and passed over
            sys.excepthook(*sys.exc_info())
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit((code or 0) & 0xFF)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
