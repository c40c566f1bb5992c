"""What greens do while something belongs to others: they queue, park, and are invited to try again.

Theory of operation
===================
Each shared object keeps the native one inside, and native threads wait for that one as they always did. Greens wait in
a list beside it. Whoever gives something away does so natively first, and then *invites* the first green of the list,
which *attempts* to take it. An attempt may fail, because a native thread was quicker; the green stays at the head.

No wake-up is lost. A green enters the list before its last attempt, and a giver gives before it looks at the list: one
of the two sees the other. An invitation is marked as used before the attempt that it leads to. Whoever leaves the list,
with or without what it came for, invites the next if there is something to take; so an invitation that meets a
cancellation or a deadline is passed on.

Greens are served in the order in which they came: as long as one waits, no other takes anything on its way past. So a
green that gives and takes in a loop without a pause cannot starve the rest. Only greens of a loop that is not running
are passed over; they are invited all the same, and have their turn when it runs.

Lists are changed by single operations of `list`, each of which is atomic, so that `release()` may come from any thread,
from a signal handler, or from `__del__` in the midst of another operation on the same object.
"""

from __future__ import annotations

from typing import Any, Final

from .._core import READY, TIMED_OUT, Green, getcurrent, park, resume

__all__ = ["NOTHING", "Shared"]

NOTHING: Final = object()
"""The outcome of an attempt that failed."""


class _Waiter:
    """A green in the list of one shared object."""

    __slots__ = ("green", "invited", "parked")

    def __init__(self, green: Green) -> None:
        self.green: Green | None = green
        self.invited = False
        self.parked = False

    def invite(self) -> bool:
        """Have the green attempt again, in the thread of its loop; False if it will never run again."""
        green = self.green
        if green is None:
            return True  # it is leaving the list, and looks for itself whether there is something to pass on
        if self.is_inherited():
            return False
        self.invited = True
        host = green.host
        current: Any = getcurrent()
        try:
            if current.__class__ is Green and current.host is host:
                host.call_soon(self._wake)
            else:
                # From the loop's own thread as well: a signal handler may have come while the loop sleeps.
                host.call_soon_threadsafe(self._wake)
        except RuntimeError:
            if host.loop.is_closed():
                return False
            raise
        return True

    def is_inherited(self) -> bool:
        """Tell whether the green belongs to the parent of this process."""
        green = self.green
        return green is not None and green.__class__ is not Green

    def is_heard(self) -> bool:
        """Tell whether an invitation is followed soon: a loop that nobody runs at the time must not hold up others."""
        green = self.green
        return green is None or green.host.loop.is_running()

    def _wake(self) -> None:
        green = self.green
        if green is not None and self.parked and green.waiting:
            green.waiting = False
            resume(green, READY)


class Shared:
    """Base of what greens and threads share. A subclass keeps the native object and says how to try to take it."""

    __slots__ = ("__weakref__", "_waiters")

    _waiters: list[_Waiter]

    def _attempt(self) -> Any:
        """Take what is there, without blocking; NOTHING if there is nothing."""
        raise NotImplementedError

    def _available(self) -> bool:
        """Tell whether an attempt would succeed now."""
        raise NotImplementedError

    def _invite(self) -> None:
        """Invite the first green that waits, unless it is invited already. From any thread."""
        for waiter in tuple(self._waiters):
            if not waiter.invited and not waiter.invite():
                _remove(self._waiters, waiter)
            elif waiter.is_heard():
                return

    def _wait(self, green: Green, timeout: float | None) -> Any:
        """Park until an attempt has succeeded, in turn, or the timeout in seconds has passed.

        Returns:
            The outcome of the attempt, or NOTHING.

        Raises:
            CancelledError: The host task was cancelled.
        """
        deadline = None if timeout is None else green.host.clock() + timeout
        waiters = self._waiters
        waiter = _Waiter(green)
        waiters.append(waiter)
        try:
            while True:
                found = self._attempt_in_turn(waiter)
                if found is not NOTHING:
                    return found
                green.what = self
                waiter.parked = True
                wake = park(green, deadline)
                waiter.parked = waiter.invited = False
                if wake is TIMED_OUT:
                    return self._attempt_in_turn(waiter)
        finally:
            waiter.green = None
            _remove(waiters, waiter)
            if waiters and self._available():
                self._invite()

    def _attempt_in_turn(self, waiter: _Waiter) -> Any:
        for other in tuple(self._waiters):
            if other is waiter:
                return self._attempt()
            if other.is_inherited():
                _remove(self._waiters, other)
            elif other.is_heard():
                return NOTHING
        return NOTHING


def _remove(waiters: list[_Waiter], waiter: _Waiter) -> None:
    try:
        waiters.remove(waiter)
    except ValueError:
        pass  # it was found to be dead, and then came to life to be ended
