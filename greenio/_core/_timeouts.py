"""`timeout` and `timeout_at`: `asyncio.timeout` for sync code."""

from __future__ import annotations

import sys
from asyncio import CancelledError, TimerHandle
from types import TracebackType
from weakref import WeakKeyDictionary, WeakSet

from ._asyncio import AnyTask
from ._green import Green, current_green
from ._host import Host
from ._seconds import check_seconds

__all__ = ["Timeout", "timeout", "timeout_at"]


class Timeout:
    """A `with` block that ends in TimeoutError when its deadline comes, as `asyncio.Timeout` does for `async with`.

    The host task is cancelled at the deadline, so that everything under the block that waits is told the same way:
    blocking calls, `await_`, task groups. Use each object once.
    """

    def __init__(self, when: float | None, *, delay: float | None = None) -> None:
        check_seconds("timeout_at()", when)
        check_seconds("timeout()", delay)
        self._when = when
        self._delay = delay
        self._green: Green | None = None
        self._host: Host | None = None  # beside the green, which has none while its task awaits; see `_tasks`
        self._task: AnyTask | None = None
        self._timer: TimerHandle | None = None
        self._cancelling = 0
        self._expired = False
        self._state = "created"

    def when(self) -> float | None:
        """Tell the deadline on the host loop's clock, in seconds; None if there is none. Never parks."""
        return self._when

    def expired(self) -> bool:
        """Tell whether the deadline came before the block ended. Never parks."""
        return self._expired

    def reschedule(self, when: float | None) -> None:
        """Move the deadline. Never parks.

        Args:
            when: A time on the host loop's clock, in seconds; None for no deadline.

        Raises:
            RuntimeError: The block is not entered, has ended, or has expired.
            TypeError: It is no number.
            ValueError: It is NaN.
        """
        check_seconds("reschedule()", when)
        if self._state != "entered" or self._expired:
            state = "expired" if self._expired else self._state
            raise RuntimeError(f"cannot reschedule a timeout that is {state}; call it inside the `with` block")
        self._arm(when)

    def _arm(self, when: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._when = when
        if when is None:
            return
        host = self._host
        assert host is not None
        if when <= host.clock():
            host.call_soon(self._expire)
            self._timer = None
            return
        self._timer = host.call_at(when, self._expire)

    def _expire(self) -> None:
        if self._state != "entered" or self._expired or self._when is None:
            return
        assert self._host is not None
        assert self._task is not None
        if self._when > self._host.clock():
            self._arm(self._when)  # it was rescheduled while this call was on its way
            return
        self._expired = True
        self._timer = None
        _cancel(self._host, self._task)

    def __enter__(self) -> Timeout:
        green = current_green()
        if green is None:
            raise RuntimeError(
                "timeout() works in green code only; in async code use `async with asyncio.timeout(...)`, "
                "in sync code run the function inside `await to_greenlet(fn)`"
            )
        if self._state != "created":
            raise RuntimeError("a timeout can be entered once; make a new one with timeout(seconds)")
        self._state = "entered"
        self._green, self._host, self._task = green, green.host, green.task
        self._cancelling = _begin(self, green.task)
        if self._delay is not None:
            self._when = green.host.clock() + self._delay
        self._arm(self._when)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._state = "exited"
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        green = self._green
        assert green is not None
        cancelling = _end(self)
        self._green = self._host = self._task = None  # a task that keeps the error would make a ring with it
        if not self._expired:
            return
        if cancelling > self._cancelling:
            return  # somebody else cancelled the task too
        if kind is not None and issubclass(kind, CancelledError):
            raise TimeoutError("timed out") from error
        # The deadline came when the last wait of the block had ended: what was to cancel this block is taken back.
        green.cancellation = None

    def __repr__(self) -> str:
        state = "expired" if self._expired else self._state
        return f"<Timeout [{state}] when={self._when}>"


if sys.version_info >= (3, 11):

    def _begin(_: Timeout, task: AnyTask) -> int:
        return task.cancelling()

    def _end(timeout: Timeout) -> int:
        return timeout._task.uncancel() if timeout._expired else 0  # type: ignore[union-attr]  # it has been entered

    def _cancel(_: Host, task: AnyTask) -> None:
        task.cancel()

else:  # CPython 3.10: the greens themselves count the cancellations that reach them, those of timeouts excepted
    _entered: WeakKeyDictionary[AnyTask, WeakSet[Timeout]] = WeakKeyDictionary()

    def _begin(timeout: Timeout, task: AnyTask) -> int:
        entered = _entered.setdefault(task, WeakSet())
        entered.add(timeout)
        return _count(timeout, entered)

    def _end(timeout: Timeout) -> int:
        task = timeout._task
        assert task is not None  # it has been entered
        entered = _entered[task]
        entered.discard(timeout)
        return _count(timeout, entered)

    def _count(timeout: Timeout, entered: WeakSet[Timeout]) -> int:
        assert timeout._green is not None
        return timeout._green.cancels + sum(map(Timeout.expired, entered))

    def _cancel(host: Host, task: AnyTask) -> None:
        reached = [call.green for call in host.calls if call.green.task is task]
        task.cancel()
        for each in reached:
            each.cancels -= 1


def timeout(seconds: float | None) -> Timeout:
    """Limit the time of a block of green code: `with timeout(5): ...`. The block may park; this call does not.

    Args:
        seconds: The limit in seconds; None for none. Zero or less expires at the first call that waits.

    Returns:
        A context manager that raises TimeoutError at the end of a block that was cut short. Nestable. To enter it
        outside a greenlet, or twice, raises RuntimeError.

    Raises:
        TypeError: The limit is no number.
        ValueError: The limit is NaN.
    """
    return Timeout(None, delay=seconds)


def timeout_at(when: float | None) -> Timeout:
    """Limit a block of green code to a point in time. The block may park; this call does not.

    Args:
        when: A time on the host loop's clock (`get_loop().time()`), in seconds; None for no limit.

    Returns:
        A context manager that raises TimeoutError at the end of a block that was cut short. Nestable. To enter it
        outside a greenlet, or twice, raises RuntimeError.

    Raises:
        TypeError: The time is no number.
        ValueError: The time is NaN.
    """
    return Timeout(when)
