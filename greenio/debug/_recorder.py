"""What is not known unless somebody notes it: since when each green is parked, and who has which `threading.Lock`."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from .._core import record_parks
from .._sync import record_owners

__all__ = ["Recorder", "record"]


class Recorder:
    """Notes parks and owners from `start` to `stop`, or for the time of a `with` block."""

    def __init__(self, *, parks: bool = True, owners: bool = True) -> None:
        self._kinds = [kind for kind, wanted in ((record_parks, parks), (record_owners, owners)) if wanted]
        self._ends: list[Callable[[], None]] = []

    def start(self) -> None:
        """Begin to note. Call it in the loop's thread. Never parks."""
        if not self._ends:
            self._ends = [kind() for kind in self._kinds]

    def stop(self) -> None:
        """Note no more, and forget. Stopping twice is harmless. Never parks."""
        while self._ends:
            self._ends.pop()()

    def __enter__(self) -> Recorder:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def record(*, parks: bool = True, owners: bool = True) -> Recorder:
    """Make a recorder of what costs something to know: use it in a `with` block, or `start()` it. Never parks.

    Args:
        parks: Note when each green of this thread parks, so that `run_info` can tell since when. By greenlet's trace
            function, which makes a park dearer by some microseconds.
        owners: Note who takes each `threading.Lock`, in every thread, so that `run_info` and `deadlocks` can tell.
            An RLock is known without it.

    Returns:
        The recorder, which is not on yet.
    """
    return Recorder(parks=parks, owners=owners)
