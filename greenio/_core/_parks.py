"""Notice of each park of one green, for tests: by greenlet's own trace function, so that it costs nothing otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from greenlet import gettrace, settrace

from .. import _original
from ._green import Green

__all__ = ["on_parks"]

Notice = tuple[Green, Callable[[], object]]


class _Trace:
    """The trace function of a thread, for as long as any of its greens is watched."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []
        self.before: Any = gettrace()
        settrace(self)

    def __call__(self, event: str, arguments: Any) -> None:
        if self.before is not None:
            self.before(event, arguments)
        if event != "switch":
            return
        for green, notify in tuple(self.notices):
            if green.waiting and arguments[0] is green.leaf:
                notify()

    def end(self) -> None:
        current: object = gettrace()
        if current is self:
            settrace(self.before)


_traces: dict[int, _Trace] = {}
"""By thread: blocks of several greens overlap, and may end in any order."""


@contextmanager
def on_parks(green: Green, notify: Callable[[], object]) -> Iterator[None]:
    """Call `notify` at each park of `green`, in whoever gets the thread, for the time of a `with` block.

    Args:
        green: A green of the calling thread.
        notify: Must not park, nor raise.
    """
    thread, notice = _original.get_ident(), (green, notify)
    trace = _traces.get(thread)
    if trace is None:
        trace = _traces[thread] = _Trace()
    trace.notices.append(notice)
    try:
        yield
    finally:
        trace.notices.remove(notice)
        if not trace.notices:
            del _traces[thread]
            trace.end()
