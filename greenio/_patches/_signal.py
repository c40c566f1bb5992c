"""`signal.sigwait`, `sigwaitinfo`, `sigtimedwait` and `pause`.

A signal is taken by the native call with a timeout of zero, in the thread of the loop, so that a wait that is cancelled
takes none. In between the green parks on a descriptor that tells whether one is pending.

Signals that are waited for are to be blocked, as POSIX says. Linux does better natively, and so programs wait for
signals that are not: while green code of the main thread does, a handler stands in for the kernel.
"""

from __future__ import annotations

import contextlib
import signal as signal_module
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from operator import index
from typing import Any

from .. import _original
from .._core import Green, forget, park
from .._sync import Lock, SimpleQueue
from ._handlers import HANDLERS, bare_handlers
from ._signalfd import open_signalfd
from ._socket_state import deadline_of, green_caller, take_turn
from ._table import Group, like, patches
from ._waits import wait_readable_until
from ._wakeup import hearing_signals

__all__ = ["GROUP"]

_native_pause: Any = getattr(signal_module, "pause", None)
_native_sigwait: Any = getattr(signal_module, "sigwait", None)
_native_sigwaitinfo: Any = getattr(signal_module, "sigwaitinfo", None)
_native_sigtimedwait: Any = getattr(signal_module, "sigtimedwait", None)

_NANOSECONDS = 10**9
_TOO_LONG = 2**63
"""Nanoseconds that do not fit into the C type for times."""

_SHORTEST, _LONGEST = 0.001, 0.02
"""Seconds between two attempts where there is no descriptor to wait for."""


def _take(signals: Collection[int]) -> list[Any]:
    """Take a pending signal, if there is one, and tell about it."""
    info = _native_sigtimedwait(signals, 0)
    return [] if info is None else [info]


def _take_by_sigwait(signals: Collection[int]) -> list[Any]:
    """Do so where there is no `sigtimedwait`, as on macOS; another thread may take it in between."""
    pending = signal_module.sigpending() & set(signals)
    return [_native_sigwait(pending)] if pending else []


def _wait(green: Green, attempt: Callable[[], list[Any]], signals: Collection[int], deadline: float | None) -> Any:
    """Park until an attempt has taken a signal; None if the deadline came first."""
    take_turn(green)  # which may raise: so before a signal is taken
    found = attempt()
    if found:
        return found[0]
    free = _free(signals)
    if free:
        found = _catch(green, free, deadline)
    elif (fd := open_signalfd(signals)) is not None:
        found = _wait_for_descriptor(green, attempt, fd, deadline)
    else:
        found = _try_again(green, attempt, deadline)
    return found[0] if found else None


def _wait_for_descriptor(green: Green, attempt: Callable[[], list[Any]], fd: int, deadline: float | None) -> list[Any]:
    try:
        return wait_readable_until(green, attempt, fd, deadline)
    finally:
        forget(fd)
        _original.close(fd)


def _try_again(green: Green, attempt: Callable[[], list[Any]], deadline: float | None) -> list[Any]:
    delay = _SHORTEST
    while True:
        now = green.host.clock()
        green.what = "signals"
        park(green, now + delay if deadline is None else min(deadline, now + delay), green.parks)
        found = attempt()
        if found or (deadline is not None and green.host.clock() >= deadline):
            return found
        delay = min(2 * delay, _LONGEST)


def _free(signals: Collection[int]) -> list[int]:
    """List the signals if none of them is blocked, and this is the main thread, where they can be caught."""
    if not _in_main_thread():
        return []
    blocked = signal_module.pthread_sigmask(signal_module.SIG_BLOCK, ())
    return [] if blocked.intersection(signals) else list(signals)


def _in_main_thread() -> bool:
    return _original.get_ident() == _original.main_thread().ident


class _Catcher:
    """The handler of one signal while greens wait for it, although it is not blocked."""

    __slots__ = ("_before", "_queues", "_signum")

    def __init__(self, signum: int) -> None:
        self._signum = signum
        self._queues: deque[Any] = deque()
        self._before = _original.signal(signum, self._catch)

    def _catch(self, signum: int, frame: object) -> None:
        self.hand(signum)

    def add(self, queue: Any) -> None:
        """Let somebody wait."""
        self._queues.append(queue)

    def hand(self, signum: int) -> None:
        """Give a signal to whoever waits longest; if nobody does any more, to whom it would have gone otherwise."""
        if self._queues:
            self._queues.popleft().put(signum)
        else:
            self._restore()
            signal_module.raise_signal(signum)

    def leave(self, queue: Any) -> None:
        """Let somebody stop waiting; the last one puts back the handler that was there before."""
        with contextlib.suppress(ValueError):
            self._queues.remove(queue)
        if not self._queues:
            self._restore()

    def _restore(self) -> None:
        if _catchers.get(self._signum) is self:
            del _catchers[self._signum]
            if _original.getsignal(self._signum) == self._catch:
                _original.signal(self._signum, self._before)


_catchers: dict[int, _Catcher] = {}


def _catch(green: Green, signals: Iterable[int], deadline: float | None) -> list[Any]:
    """Wait for signals by handlers."""
    queue: Any = SimpleQueue()
    timeout = None if deadline is None else max(0.0, deadline - green.host.clock())
    with contextlib.ExitStack() as left:
        left.callback(_pass_on, queue)
        for signum in signals:
            catcher = _catchers.get(signum) or _new_catcher(signum)
            if catcher is not None:
                catcher.add(queue)
                left.callback(catcher.leave, queue)
        try:
            return [queue.get(True, timeout)]
        except _original.Empty:
            return []


def _new_catcher(signum: int) -> _Catcher | None:
    if _original.getsignal(signum) is None:
        return None  # C code handles it, whose handler could not be put back
    try:
        catcher = _catchers[signum] = _Catcher(signum)
    except OSError:  # SIGKILL and SIGSTOP: nobody waits for these with success
        return None
    return catcher


def _pass_on(queue: Any) -> None:
    """Give away what came after the first signal, or too late for somebody who was cancelled."""
    while not queue.empty():
        signum = queue.get()
        catcher = _catchers.get(signum)
        if catcher is not None:
            catcher.hand(signum)
        else:
            signal_module.raise_signal(signum)


def _named(info: Any) -> int:
    """Tell which signal it was, as `sigwait` does."""
    signum = info if isinstance(info, int) else info.si_signo
    try:
        return signal_module.Signals(signum)
    except ValueError:
        return signum  # a real-time signal has no name


def _informed(info: Any) -> Any:
    """Tell what is known of a signal; of one that was caught by a handler, only which it was."""
    return signal_module.struct_siginfo((info, 0, 0, 0, 0, 0, 0)) if isinstance(info, int) else info


def _greens() -> Iterator[Any]:
    """Make the green functions that this platform has natives of."""
    if _native_sigwait is not None:
        take = _take if _native_sigtimedwait is not None else _take_by_sigwait

        @like(_native_sigwait)
        def sigwait(sigset: Iterable[int]) -> Any:
            green = green_caller()
            if green is None:
                return _native_sigwait(sigset)
            signals = [index(signum) for signum in sigset]
            return _named(_wait(green, partial(take, signals), signals, None))

        yield sigwait
    if _native_sigtimedwait is not None:

        @like(_native_sigwaitinfo)
        def sigwaitinfo(sigset: Iterable[int], /) -> Any:
            green = green_caller()
            if green is None:
                return _native_sigwaitinfo(sigset)
            signals = [index(signum) for signum in sigset]
            return _informed(_wait(green, partial(_take, signals), signals, None))

        @like(_native_sigtimedwait)
        def sigtimedwait(sigset: Iterable[int], timeout: float, /) -> Any:
            green = green_caller()
            if green is None:
                return _native_sigtimedwait(sigset, timeout)
            signals = [index(signum) for signum in sigset]
            if not isinstance(timeout, float):
                timeout = index(timeout)  # raises for what is no number, as the native call does
            if not 0 < timeout * _NANOSECONDS < _TOO_LONG:
                return _native_sigtimedwait(signals, timeout)  # at once: it does not wait, or raises
            return _informed(_wait(green, partial(_take, signals), signals, deadline_of(green, timeout)))

        yield sigwaitinfo
        yield sigtimedwait
    if _native_pause is not None:

        @like(_native_pause)
        def pause() -> None:
            green = green_caller()
            if green is None:
                return _native_pause()  # type: ignore[no-any-return]
            handled = Lock()
            handled.acquire()
            if _in_main_thread():
                with hearing_signals(green, partial(_release, handled)):
                    handled.acquire()
            else:
                handled.acquire()  # handlers do not run here
            return None

        yield pause


def _release(lock: Lock) -> None:
    if lock.locked():
        lock.release()


GROUP = Group("signal", (*patches(signal_module, _greens()), *HANDLERS), undo=bare_handlers)
