"""Readiness: greenlets that wait for descriptors.

Each host loop has a `Poller`: an epoll of its own, which the loop watches as one reader. An epoll descriptor is itself
pollable, so this takes nothing but `add_reader`, and buys a lot. Whatever is ready at a time is resumed in one
callback, so that what a switch costs the outer side is paid once for all. The loop never learns of the user's
descriptors: uvloop does not make them non-blocking (MagicStack/uvloop#712), a transport may own them, a closed number
cannot poison stock asyncio's selector, and any thread may take one out.

A `Watch` stands for one descriptor on one host, a `Side` for one direction of it.

* **Registrations are edge-triggered and outlive the park.** A request/response conversation needs no `epoll_ctl` at
  all.
* **Nobody waits without having tried.** An edge is told once. Whoever waits must have seen the call fail with EAGAIN
  (or a stream read come back short) since; then whatever makes the descriptor ready comes with a new edge. `Side.ready`
  remembers an edge that found nobody waiting. A hang-up is the last edge there is, so `ready` stays True after it.
* **An edge wakes every waiter** of its direction, and a wake-up is a hint, not a promise: try again, wait again.
* Arming a direction that was not armed makes the kernel tell the present level, as a first edge. Writing is disarmed
  when an edge finds nobody waiting (a Unix or UDP socket tells one for every datagram that leaves), reading after
  several.
* Closing takes a descriptor out first, from whichever thread, and wakes its waiters with EBADF. Should somebody close
  the bare number behind greenio's back, the kernel drops it; `renew` and `wait_level` are for the next owner of that
  number.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from contextvars import Context
from typing import Any, Final, Protocol

from .. import _original
from ._asyncio import get_hooks
from ._green import (
    READY,
    TIMED_OUT,
    Green,
    current_green,
    disturbed,
    getcurrent,
    park,
    parking,
    pass_on,
    resume,
    resume_each,
)
from ._host import Host
from ._kqueue import Kqueue
from ._seconds import check_seconds

__all__ = [
    "HasFileno",
    "Side",
    "Watch",
    "forget",
    "reader",
    "registrations",
    "renew",
    "retry",
    "wait_readable",
    "wait_writable",
    "writer",
]

_IN, _PRI, _OUT, _ERR, _HUP, _RDHUP = 0x1, 0x2, 0x4, 0x8, 0x10, 0x2000
_EDGE = 1 << 31
_HUNG: Final = _ERR | _HUP | _RDHUP
_LASTING: Final = _HUNG | _PRI
_READ: Final = _IN | _PRI | _RDHUP
_READ_EVENTS: Final = _IN | _PRI | _HUNG
_WRITE_EVENTS: Final = _OUT | _ERR | _HUP

_BATCH = 128
"""Descriptors that one callback resumes at most, so that the loop's other callbacks have their turn."""

_PATIENCE = 8
"""Edges in a row that may find no reader before reading is disarmed."""


class HasFileno(Protocol):
    """An object with a descriptor, as `select` takes it."""

    def fileno(self) -> int: ...


class Side:
    """One direction of one descriptor on one host.

    Attributes:
        armed: The kernel tells edges of this direction.
        host: The host whose greens may wait here.
        hung: The last edge has been told, or urgent data, at which reads end short with more behind it.
        missed: An edge has found nobody waiting, since who was to wait for it may have been interrupted before.
        ready: Trying is worth it: nobody has found the descriptor unready since the last edge.
        waiters: The parked greens, first come first.
        watch: What both directions share.
    """

    __slots__ = ("_wasted", "armed", "bits", "host", "hung", "missed", "ready", "waiters", "watch")

    def __init__(self, watch: Watch, bits: int) -> None:
        self.watch = watch
        self.host = watch.host
        self.bits = bits
        self.armed = False
        self.hung = False
        self.missed = False
        self.ready = True
        self.waiters: list[Green] = []
        self._wasted = 0

    @property
    def dead(self) -> bool:
        """Whether the descriptor was closed or handed away."""
        return self.watch.dead

    @parking
    def wait(self, green: Green, deadline: float | None) -> bool:
        """Park until an edge; the caller has just found the descriptor not ready, and tries again afterwards.

        Returns:
            False when the deadline came first.

        Raises:
            OSError: EBADF if the descriptor was closed, here or by another greenlet or thread.
            CancelledError: The host task was cancelled.
        """
        mark = green.parks
        if self.missed:
            self.missed = False
            return True
        if not self.armed and not self.watch.arm(self):
            return True
        waiters = self.waiters
        green.what = self
        try:
            waiters.append(green)
            if green.cancellation is not None or get_hooks()[0] is not None:
                return park(green, deadline, mark) is READY
            # The rest is `park`, written out: this is where a busy program spends its time.
            green.deadline = deadline
            if deadline is not None:
                green.arm(deadline)
            green.operations = 0
            leaf = getcurrent()
            green.waiting = True
            if green.parks != mark:
                green.waiting = False
                disturbed(green)
                return True
            green.parks = mark + 1
            green.leaf = leaf
            wake = green.parent.switch()  # type: ignore[union-attr]
            if green.thread.active is not green:
                wake = pass_on(green, wake)
        except BaseException as error:
            if green.thread.active is green:
                green.waiting = False
                raise
            wake = pass_on(green, None, error)
        finally:
            waiters.remove(green)
        if wake is READY:
            return True
        if wake is TIMED_OUT:
            return False
        try:
            raise wake
        finally:
            del wake

    def wait_level(self, green: Green, deadline: float | None) -> bool:
        """Park until the descriptor is ready at that moment, for callers that cannot try; False for the deadline."""
        assert _original.poll is not None
        level = _original.poll()
        level.register(self.watch.fd, self.bits & (_IN | _OUT))
        ready = True
        while not level.poll(0):
            if not ready:
                return False
            if self.armed:
                # The number may have been closed and used again in C, where nobody tells greenio.
                self.watch.poller.change(self.watch, self.watch.mask())
            ready = self.wait(green, deadline)
        return True

    def edge(self, mask: int, greens: list[Green]) -> None:
        """Take note of an edge; add those that wait for it to `greens`."""
        self.ready = True
        if mask & _LASTING:
            self.hung = True
        if self.waiters:
            self._wasted = 0
            greens += self.waiters
            return
        self.missed = True
        if self.armed:
            self._wasted += 1
            if self.bits & _OUT or self._wasted >= _PATIENCE:
                self._wasted = 0
                self.watch.disarm(self)

    def __repr__(self) -> str:
        direction = "writable" if self.bits & _OUT else "readable"
        return f"<{direction} fd={self.watch.fd} waiters={len(self.waiters)}{'' if self.armed else ' disarmed'}>"


class Watch:
    """One descriptor on one host."""

    __slots__ = ("dead", "fd", "host", "poller", "reader", "registered", "writer")

    def __init__(self, poller: Poller, fd: int) -> None:
        self.poller = poller
        self.host = poller.host
        self.fd = fd
        self.dead = False
        self.registered = False
        self.reader = Side(self, _READ)
        self.writer = Side(self, _OUT)

    @property
    def waiters(self) -> list[Green]:
        """The greens that are parked here, in either direction."""
        return [*self.reader.waiters, *self.writer.waiters]

    def mask(self) -> int:
        """Tell what the kernel is asked to report, as epoll's bits."""
        return (self.reader.bits if self.reader.armed else 0) | (self.writer.bits if self.writer.armed else 0)

    def arm(self, side: Side) -> bool:
        """Have edges of one direction told; False for a descriptor that is always ready."""
        if self.dead:
            raise _closed_error()
        side.armed = True
        try:
            self.poller.change(self, self.mask())
        except BaseException as error:
            side.armed = False
            if isinstance(error, PermissionError):
                return False  # a regular file: epoll refuses it with EPERM, and it never blocks
            raise
        return True

    def disarm(self, side: Side) -> None:
        """Have no more edges of one direction told."""
        side.armed = False
        self.poller.change(self, self.mask())

    def drop(self) -> None:
        """Leave the poller, and wake every waiter with EBADF. From any thread, before the descriptor is closed."""
        self.dead = True
        self.poller.watches.pop(self.fd, None)
        self.reader.armed = self.writer.armed = False
        self.poller.change(self, 0)
        self.wake(True)

    def wake(self, is_closed: bool) -> None:
        """Wake every waiter: to try again, or with EBADF. From any thread."""
        if self.waiters or _original.get_ident() != self.host.thread_id:  # of which a green may be about to wait here
            with suppress(RuntimeError):  # the loop is closed
                self.host.call_soon(_wake_waiters, self, is_closed)


def _closed_error() -> OSError:
    return OSError(errno.EBADF, os.strerror(errno.EBADF))


def _wake_waiters(watch: Watch, is_closed: bool) -> None:
    for green in watch.waiters:
        if green.waiting:
            green.waiting = False
            resume(green, _closed_error() if is_closed else READY)


class Poller:
    """The epoll of one host."""

    __slots__ = ("_epoll", "host", "watches")

    def __init__(self, host: Host) -> None:
        self.host = host
        self.watches: dict[int, Watch] = {}
        self._open()

    def _open(self) -> None:
        self._epoll = _open_epoll()
        # A context of its own, or the loop would keep the first waiter's for as long as it runs.
        Context().run(self.host.loop.add_reader, self._epoll.fileno(), self._on_events)

    def fileno(self) -> int:
        """Tell the descriptor of the epoll itself."""
        return self._epoll.fileno()  # type: ignore[no-any-return]

    def change(self, watch: Watch, mask: int) -> None:
        """Tell the kernel which edges of a descriptor are wanted: none takes it out. From any thread."""
        try:
            if not mask:
                if watch.registered:
                    watch.registered = False
                    self._epoll.unregister(watch.fd)
            elif watch.registered:
                self._epoll.modify(watch.fd, mask | _EDGE)
            else:
                self._epoll.register(watch.fd, mask | _EDGE)
                watch.registered = True
        except FileNotFoundError:
            # The number was closed behind our back, and now it is somebody else's.
            watch.registered = False
            if mask:
                self.change(watch, mask)
        except FileExistsError:
            watch.registered = True
            self.change(watch, mask)
        except (OSError, ValueError):
            if mask:
                raise  # EPERM for a regular file, EBADF for a bad number

    def _on_events(self) -> None:
        """Resume whoever waits for what became ready: the outer side of many switches at once."""
        watches = self.watches
        greens: list[Green] = []
        for fd, mask in self._epoll.poll(0, _BATCH):
            watch = watches.get(fd)
            if watch is None:
                continue
            if mask & _READ_EVENTS:
                watch.reader.edge(mask, greens)
            if mask & _WRITE_EVENTS:
                watch.writer.edge(mask, greens)
        if greens:
            resume_each(self.host, greens)

    def end(self) -> None:
        """Go with the loop, which is about to be closed."""
        for watch in tuple(self.watches.values()):
            _unlist(watch)
            watch.drop()
        self.host.loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def abandon(self) -> None:
        """Let go of an epoll that is shared with the parent process, and change nothing in it."""
        self._epoll.close()


def _open_epoll() -> Any:
    if _original.epoll is not None:
        return _original.epoll()
    if Kqueue.available():
        return Kqueue()
    raise RuntimeError("greenio needs epoll or kqueue to wait for descriptors, and this platform has neither")


_by_fd: dict[int, list[Watch]] = {}
"""Every watch of every host, for `forget`, which native code that closes a socket calls too."""


def _unlist(watch: Watch) -> None:
    others = _by_fd.get(watch.fd, [])
    if watch in others:
        others.remove(watch)
    if not others:
        _by_fd.pop(watch.fd, None)


def _watch(host: Host, fd: int) -> Watch:
    poller = host.poller
    if poller is None:
        if host.ended:
            raise RuntimeError("the event loop of this greenlet is closed, so nothing could wake it")
        poller = host.poller = Poller(host)
    watch = poller.watches.get(fd)
    if watch is None:
        if fd < 0:
            raise _closed_error()
        watch = Watch(poller, fd)
        _by_fd.setdefault(fd, []).append(watch)  # first, so that `forget` finds it whenever a handler raises
        poller.watches[fd] = watch
    return watch


def reader(host: Host, fd: int) -> Side:
    """Look up, or make, what stands for reading `fd` on `host`."""
    return _watch(host, fd).reader


def writer(host: Host, fd: int) -> Side:
    """Look up, or make, what stands for writing `fd` on `host`."""
    return _watch(host, fd).writer


def forget(fd: int) -> None:
    """Drop what is known of a descriptor that is about to be closed or handed away. Never parks.

    Its waiters wake with EBADF. May be called from any thread.
    """
    if fd in _by_fd:
        for watch in _by_fd.pop(fd, ()):
            watch.drop()


def retry(fd: int) -> None:
    """Have all that wait for a descriptor try again, since no edge may tell of what has become of it. Never parks.

    May be called from any thread.
    """
    for watch in tuple(_by_fd.get(fd, ())):
        for side in (watch.reader, watch.writer):
            side.ready = side.missed = True
        watch.wake(False)


def renew(fd: int) -> None:
    """Make sure that a number which has a new owner is not taken for its last one. Never parks."""
    for watch in _by_fd.get(fd, ()):
        if watch.registered and (mask := watch.mask()):
            watch.reader.ready = watch.writer.ready = True
            watch.reader.hung = watch.writer.hung = False
            watch.poller.change(watch, mask)


def registrations() -> list[Watch]:
    """List what is watched on loops that are still open."""
    return [watch for group in tuple(_by_fd.values()) for watch in group if not watch.host.loop.is_closed()]


def forget_parent() -> None:
    """Forget everything in a forked child: the epolls are the parent's, and must not be changed from here."""
    for group in tuple(_by_fd.values()):
        for watch in group:
            watch.dead = True
            watch.poller.watches.clear()
            watch.poller.abandon()
            watch.host.poller = None
    _by_fd.clear()


def wait_readable(fd: int | HasFileno, timeout: float | None = None) -> None:
    """Wait until a descriptor can be read without blocking. Parks.

    Args:
        fd: A descriptor, or an object with `fileno()`. A regular file is always ready.
        timeout: Seconds to wait at most; None waits for ever.

    Raises:
        TimeoutError: Nothing could be read in time.
        OSError: EBADF if the descriptor is bad, or is closed meanwhile.
        RuntimeError: The caller is not in a greenlet.
        TypeError: There is no descriptor, or the timeout is no number.
        ValueError: The timeout is NaN.
    """
    green = _caller("wait_readable")
    check_seconds("wait_readable()", timeout)
    _wait(green, reader(green.host, _fileno("wait_readable()", fd)), timeout)


def wait_writable(fd: int | HasFileno, timeout: float | None = None) -> None:
    """Wait until a descriptor can be written without blocking. Parks.

    Args:
        fd: A descriptor, or an object with `fileno()`. A regular file is always ready.
        timeout: Seconds to wait at most; None waits for ever.

    Raises:
        TimeoutError: Nothing could be written in time.
        OSError: EBADF if the descriptor is bad, or is closed meanwhile.
        RuntimeError: The caller is not in a greenlet.
        TypeError: There is no descriptor, or the timeout is no number.
        ValueError: The timeout is NaN.
    """
    green = _caller("wait_writable")
    check_seconds("wait_writable()", timeout)
    _wait(green, writer(green.host, _fileno("wait_writable()", fd)), timeout)


def _caller(name: str) -> Green:
    green = current_green()
    if green is None:
        raise RuntimeError(f"{name}() was called outside a greenlet; call it inside `await to_greenlet(fn)`")
    return green


def _fileno(call: str, fd: int | HasFileno) -> int:
    found = fd.fileno() if hasattr(fd, "fileno") else fd
    if not isinstance(found, int):
        raise TypeError(f"{call} takes a descriptor or an object with fileno(), not {fd!r}")
    return found


def _wait(green: Green, side: Side, timeout: float | None) -> None:
    try:
        os.fstat(side.watch.fd)
    except OSError:
        forget(side.watch.fd)
        raise
    deadline = None if timeout is None else green.host.clock() + timeout
    if not side.wait_level(green, deadline):
        raise TimeoutError("timed out")
