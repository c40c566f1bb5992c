"""`queue.SimpleQueue` for greens of any loop and for native threads at once."""

from __future__ import annotations

import _thread
import types
from typing import Any, NoReturn

from .. import _original
from .._core import current_green
from ._waiting import NOTHING, Shared

__all__ = ["SimpleQueue"]

_Empty = _original.Empty


class SimpleQueue(Shared):
    """An unbounded queue, first in, first out. `queue.SimpleQueue` says what each call does."""

    __slots__ = ("_queue",)

    _queue: Any

    def __new__(cls, *args: Any, **kwargs: Any) -> SimpleQueue:
        """Make an empty queue: here, since a subclass of the native one need not call its `__init__`."""
        if (args or kwargs) and cls.__init__ is object.__init__:
            raise TypeError(f"{cls.__name__}() takes no arguments")
        self = super().__new__(cls)
        self._waiters = []
        self._queue = _original.SimpleQueue()
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("cannot pickle '_queue.SimpleQueue' object")

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Add an item, from any thread, signal handler or finalizer. Never parks; the other arguments are ignored."""
        self._queue.put(item)
        if self._waiters:
            self._invite()

    def put_nowait(self, item: Any) -> None:
        """Add an item. Never parks."""
        self.put(item)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take the next item. Parks in green code.

        Args:
            block: Wait for one if the queue is empty.
            timeout: Seconds; None waits for ever.

        Raises:
            queue.Empty: There was none in time.
            ValueError: The timeout is negative.
            CancelledError: The host task was cancelled. No item is lost.
        """
        green = current_green() if block else None
        if green is None or (timeout is not None and not 0 < timeout <= _thread.TIMEOUT_MAX):
            return self._queue.get(block, timeout)
        if not self._waiters:
            found = self._attempt()
            if found is not NOTHING:
                return found
        found = self._wait(green, timeout)
        if found is NOTHING:
            raise _Empty
        return found

    def get_nowait(self) -> Any:
        """Take the next item, or raise `queue.Empty`. Never parks."""
        return self._queue.get(False)

    def empty(self) -> bool:
        """Tell whether the queue is empty at this moment. Never parks."""
        return bool(self._queue.empty())

    def qsize(self) -> int:
        """Tell how many items there are at this moment. Never parks."""
        return int(self._queue.qsize())

    def _attempt(self) -> Any:
        try:
            return self._queue.get(False)
        except _Empty:
            return NOTHING

    def _available(self) -> bool:
        return not self._queue.empty()

    __class_getitem__: Any = classmethod(types.GenericAlias)
