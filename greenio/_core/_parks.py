"""Notice of parks, for tests and for those who debug: by greenlet's own trace function, so that it costs nothing else.

A look at the clock at each park would cost a tenth of it; so since when a green waits is known only while somebody has
asked for that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from greenlet import gettrace, settrace

from .. import _original
from ._green import Green, greens, thread_state

__all__ = ["on_parks", "parked_since", "record_parks"]

Notice = Callable[[Green], object]


class _Trace:
    """The trace function of a thread, for as long as anybody wants notices. Those may overlap and end in any order."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []
        self.thread = thread_state()
        self.before: Any = gettrace()
        settrace(self)

    def __call__(self, event: str, arguments: Any) -> None:
        if self.before is not None:
            self.before(event, arguments)
        # The other side still shows the green that has just parked as the one that has the thread.
        green = self.thread.active
        if event == "switch" and green is not None and green.waiting and arguments[0] is green.leaf:
            for notify in tuple(self.notices):
                notify(green)

    def end(self) -> None:
        # Left where it is, without effect, if somebody has put another over it, or if this is another thread.
        current: object = gettrace()
        if current is self:
            settrace(self.before)


_traces: dict[int, _Trace] = {}
"""By thread."""


def _begin(notify: Notice) -> Callable[[], None]:
    """Call `notify` at each park of a green of this thread, in whoever gets the thread; what is returned ends it."""
    thread = _original.get_ident()
    trace = _traces.get(thread)
    if trace is None:
        trace = _traces[thread] = _Trace()
    trace.notices.append(notify)

    def end() -> None:
        trace.notices.remove(notify)
        if not trace.notices:
            del _traces[thread]
            trace.end()

    return end


@contextmanager
def on_parks(green: Green, notify: Callable[[], object]) -> Iterator[None]:
    """Call `notify` at each park of `green`, in whoever gets the thread, for the time of a `with` block.

    Args:
        green: A green of the calling thread.
        notify: Must not park, nor raise.
    """
    end = _begin(lambda parked: notify() if parked is green else None)
    try:
        yield
    finally:
        end()


_since: WeakKeyDictionary[Green, float] = WeakKeyDictionary()


def parked_since(green: Green) -> float | None:
    """Tell since when a green is parked, on the monotonic clock; None if nobody has noted it. Never parks."""
    return _since.get(green) if green.waiting else None


def record_parks() -> Callable[[], None]:
    """Note when greens of the calling thread park, from now on. Never parks.

    Returns:
        What ends it. Calls may overlap.
    """
    thread, state = _original.get_ident(), thread_state()
    end = _begin(_note)

    def stop() -> None:
        end()
        trace = _traces.get(thread)
        if trace is None or _note not in trace.notices:
            for green in greens():
                if green.thread is state:
                    _since.pop(green, None)

    return stop


def _note(green: Green) -> None:
    _since[green] = _original.monotonic()
