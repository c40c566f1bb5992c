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

A thread that releases a lock and takes it again at once is always quicker than another thread, which first needs the
GIL. So who was invited and came too late has the lock *offered* the next time: the releasing thread keeps it, and waits
until the offer is accepted, or for a moment. It must not wait for longer, nor let the lock go to somebody who does not
run yet: native code of that thread may wait for the very lock, and nobody else could then make way for it.

Greens are served in the order in which they came: as long as one waits, no other takes anything on its way past. So a
green that gives and takes in a loop without a pause cannot starve the rest. Only greens of a loop that is not running
are passed over; they are invited all the same, and have their turn when it runs.

Lists are changed by single operations of `list`, each of which is atomic, so that `release()` may come from any thread,
from a signal handler, or from `__del__` in the midst of another operation on the same object. So may a call that waits,
in the midst of another call of the same green: the outer one cannot go on before the inner one has ended. If it waits,
it is passed over meanwhile, and has nothing offered. If it gives, an invitation may be noted and not sent; so whoever
begins to wait doubts it, and it is sent once more.
"""

from __future__ import annotations

from typing import Any, Final

from .. import _original
from .._core import READY, TIMED_OUT, Green, getcurrent, park, resume, thread_state

__all__ = ["NOTHING", "Shared"]

NOTHING: Final = object()
"""The outcome of an attempt that failed."""

_PATIENCE = 0.01
"""Seconds for which an offer holds: twice the interval after which CPython takes the GIL from a thread."""


class _Offer:
    """A lock that its holder keeps until another thread has accepted it."""

    __slots__ = ("_answer", "_open", "accepted", "declined")

    def __init__(self) -> None:
        self.accepted = self.declined = False
        self._open = [True]
        self._answer = _original.allocate_lock()
        self._answer.acquire()

    def close(self) -> bool:
        """Begin to accept the offer, or withdraw it; False if the other side was quicker."""
        try:
            return self._open.pop()
        except IndexError:
            return False

    def decline(self) -> None:
        """Refuse it, if it is not accepted yet, although its waiter may be about to accept."""
        if not self.accepted:
            self.declined = True
            self.answer()

    def answer(self) -> None:
        """Have the holder go on."""
        try:
            self._answer.release()
        except RuntimeError:
            pass  # it was answered before

    def wait(self, timeout: float = -1) -> bool:
        """Block until there is an answer; False if there is none within so many seconds."""
        answered = self._answer.acquire(True, timeout)
        if answered:
            self.answer()  # for whoever asks again
        return answered

    def outcome(self) -> bool:
        """Block until there is an answer, which comes at once if the offer was closed, and tell whether it is yes."""
        self.wait()
        return self.accepted


class _Waiter:
    """A green in the list of one shared object."""

    __slots__ = ("covered", "doubted", "green", "invited", "list", "missed", "offer", "outer")

    def __init__(self, green: Green, waiters: list[_Waiter]) -> None:
        self.green: Green | None = green
        self.list = waiters
        self.outer: _Waiter | None = green.waiter
        self.covered = self.doubted = False
        self.invited = False
        self.missed = False
        self.offer: _Offer | None = None

    def cover(self) -> list[_Waiter]:
        """Note with the calls of the same green that this one has interrupted, if any, that they cannot go on."""
        covered = []
        other = self.outer
        while other is not None:
            if other.list is self.list and not other.covered:
                covered.append(other)
                other.covered = True
                if other.offer is not None:
                    other.offer.decline()
            other = other.outer
        return covered

    def uncover(self) -> None:
        """Note that this call goes on. What would have woken it may have woken the other."""
        self.covered = self.invited = False

    def is_of_this_thread(self) -> bool:
        """Tell whether the green's loop is in the caller's thread."""
        green = self.green
        return green is not None and green.thread is thread_state()

    def invite(self) -> bool:
        """Have the green attempt again, in the thread of its loop; False if it will never run again."""
        green = self.green
        if green is None:
            return True  # it is leaving the list, and looks for itself whether there is something to pass on
        if self.is_inherited():
            return False
        self.invited = True
        self.doubted = False
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

    def answer_invitation(self) -> None:
        """Note that it runs: what it finds gone now, it has missed."""
        self.missed = self.missed or self.invited
        self.invited = False

    def leave(self) -> None:
        """Leave the list, and let nobody wait any longer for the answer to an offer."""
        self.green = None
        if self.offer is not None:
            self.offer.answer()

    def is_inherited(self) -> bool:
        """Tell whether the green belongs to the parent of this process."""
        green = self.green
        return green is not None and green.__class__ is not Green

    def is_heard(self) -> bool:
        """Tell whether an invitation is followed soon: who cannot come must not hold up others."""
        green = self.green
        return green is None or (not self.covered and green.host.loop.is_running())

    def _wake(self) -> None:
        green = self.green
        if green is not None and green.waiting:
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

    def _note_miss(self) -> None:
        """Note that somebody came too late."""

    def _doubt(self) -> None:
        """Note that the first green that waits may be invited and never hear of it, if that was interrupted."""
        for waiter in self._waiters:
            waiter.doubted = True
            if waiter.is_heard():
                return

    def _invite(self) -> None:
        """Invite the first green that waits, unless it is invited already. From any thread."""
        for waiter in tuple(self._waiters):
            if (waiter.doubted or not waiter.invited) and not waiter.invite():
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
        waiter = _Waiter(green, waiters)
        covered: list[_Waiter] = []
        is_new = True
        try:
            green.waiter = waiter
            covered = waiter.cover()
            waiters.append(waiter)
            while True:
                mark = green.parks
                found = self._attempt_in_turn(waiter)
                if found is not NOTHING:
                    return found
                if is_new:
                    is_new = False
                    self._doubt()
                    if self._available():
                        self._invite()
                if waiter.missed:
                    self._note_miss()
                green.what = self
                wake = park(green, deadline, mark)
                waiter.answer_invitation()
                if wake is TIMED_OUT:
                    return self._attempt_in_turn(waiter)
        finally:
            waiter.leave()
            _remove(waiters, waiter)
            for other in covered:
                other.uncover()
            if waiters and self._available():
                self._invite()
            green.waiter = waiter.outer

    def _attempt_in_turn(self, waiter: _Waiter) -> Any:
        if self._accept(waiter):
            return True
        for other in tuple(self._waiters):
            if other is waiter:
                return self._attempt()
            if other.is_inherited():
                _remove(self._waiters, other)
            elif other.is_heard():
                return NOTHING
        return NOTHING

    def _first_heard(self) -> _Waiter | None:
        for waiter in tuple(self._waiters):
            if waiter.is_heard() and not waiter.is_inherited():
                return waiter
        return None

    def _offer(self, waiter: _Waiter) -> bool:
        """Offer the lock that the caller has; False if it still has it."""
        if not waiter.missed or waiter.invited or waiter.is_of_this_thread() or not self._is_held_once():
            return False
        offer = waiter.offer = _Offer()
        try:
            if waiter.invite():
                offer.wait(_PATIENCE)
        except BaseException:  # a signal handler's
            if offer.close() or not offer.outcome():
                self._let_go()
            raise
        return not offer.close() and offer.outcome()

    def _accept(self, waiter: _Waiter) -> bool:
        """Take the lock that is offered to a waiter, if one is."""
        offer = waiter.offer
        if offer is None:
            return False
        try:
            means = self._prepare()  # before the other thread waits for nothing but this one's answer
            return offer.close() and self._receive(offer, means)
        finally:
            waiter.offer = None
            offer.answer()

    def _let_go(self) -> None:
        """Release the lock, and invite who waits for it."""
        raise NotImplementedError

    def _is_held_once(self) -> bool:
        """Tell whether a lock that is offered is all its holder's to give away."""
        return True

    def _prepare(self) -> Any:
        """Make what it takes to receive the lock."""
        return None

    def _receive(self, offer: _Offer, means: Any) -> bool:
        """Take over the lock, which has not been released, unless the offer has been declined after all."""
        raise NotImplementedError


def _remove(waiters: list[_Waiter], waiter: _Waiter) -> None:
    try:
        waiters.remove(waiter)
    except ValueError:
        pass  # it was found to be dead, and then came to life to be ended
