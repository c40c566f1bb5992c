"""`select.select`, `poll`, `epoll` and `kqueue`.

How a green call waits: the native call with a timeout of zero comes first. If it finds nothing, the green parks until
something may have happened, and the native call comes again. So what is returned, consumed or raised is always the
native call's doing, with every flag it knows.

`poll` is a factory of a hidden C type, and `epoll` and `kqueue` are C types, which take no methods. While patched, the
module holds classes that wrap them. They outlive the patch, and native objects pass for instances of them.
"""

from __future__ import annotations

import math
import select as select_module
from collections.abc import Iterable, Iterator
from functools import partial
from types import TracebackType
from typing import Any, SupportsIndex

from .. import _original
from .._core import TIMED_OUT, Green, forget, park
from ._socket_state import green_caller, take_turn
from ._table import Group, like, patches
from ._waits import IN, OUT, PRI, wait_readable_until, wait_until

__all__ = ["GROUP", "epoll_seconds", "poll_seconds", "select_seconds"]

_native_poll: Any = _original.poll
_native_epoll: Any = _original.epoll

_LONGEST_SELECT = 9e9
"""A timeout in seconds that `select` surely takes; longer ones are left for the native call to judge."""
_LONGEST_POLL = 2e6
"""The same for `poll` and `epoll`, which count milliseconds in a C int."""


class _Accepted(Exception):
    """The native call took the timeout and went on to the descriptors."""


class _Stop:
    def fileno(self) -> int:
        raise _Accepted


def select_seconds(timeout: Any) -> float | None:
    """Check a timeout of `select`; None blocks."""
    if timeout is None or (timeout.__class__ in (float, int) and 0 <= timeout < _LONGEST_SELECT):
        return timeout
    try:
        _original.select_select([_Stop()], (), (), timeout)
    except _Accepted:
        return float(timeout)
    raise AssertionError("select() looked at no descriptor")


def poll_seconds(timeout: Any) -> float | None:
    """Check a timeout of `poll`, in milliseconds, and round it as it does; None blocks."""
    if timeout is None:
        return None
    if timeout.__class__ not in (float, int) or not -_LONGEST_POLL < timeout / 1000 < _LONGEST_POLL:
        probe = _native_poll()
        probe.register(_NO_DESCRIPTOR)  # found bad at once, so that the call never waits
        probe.poll(timeout)
    return None if timeout < 0 else math.ceil(timeout) / 1000


_NO_DESCRIPTOR = 2**31 - 1


def epoll_seconds(timeout: Any) -> float | None:
    """Check a timeout of `epoll.poll` and round it as it does; None blocks."""
    if timeout is None:
        return None
    if timeout.__class__ not in (float, int) or not -_LONGEST_POLL < timeout < _LONGEST_POLL:
        _check_by_epoll(timeout)
    milliseconds = math.ceil(timeout * 1000)
    return None if milliseconds < 0 else milliseconds / 1000


def _check_by_epoll(timeout: Any) -> None:
    with _native_epoll() as probe:
        try:
            probe.poll(timeout, 0)
        except ValueError:
            if timeout != timeout:  # NaN; else it is the number of events that was refused, after the timeout
                raise


def _deadline(green: Green, seconds: float | None) -> float | None:
    return None if seconds is None else green.host.clock() + seconds


def _number(fd: Any) -> int:
    return fd if isinstance(fd, int) else fd.fileno()


@like(select_module.select)
def select(rlist: Iterable[Any], wlist: Iterable[Any], xlist: Iterable[Any], timeout: float | None = None, /) -> Any:
    green = green_caller()
    if green is None:
        return _original.select_select(rlist, wlist, xlist, timeout)
    seconds = select_seconds(timeout)
    lists = _reusable(rlist), _reusable(wlist), _reusable(xlist)
    attempt = partial(_original.select_select, *lists, 0)
    found = attempt()
    if seconds == 0 or any(found):
        take_turn(green)
        return found
    deadline = _deadline(green, seconds)
    interests = _interests(*lists)
    if interests:
        return wait_until(green, attempt, interests, deadline)
    green.what = "select.select"
    while park(green, deadline, green.parks) is not TIMED_OUT:
        pass  # it waits for nothing: a way to sleep
    return found


def _reusable(fds: Any) -> Any:
    """Make what can be looked at several times; a list stays itself, since `fileno()` methods may change it."""
    return list(fds) if isinstance(fds, Iterator) else fds


def _interests(rlist: Iterable[Any], wlist: Iterable[Any], xlist: Iterable[Any]) -> dict[int, int]:
    interests: dict[int, int] = {}
    for fds, mask in ((rlist, IN), (wlist, OUT), (xlist, PRI)):
        for fd in fds:
            number = _number(fd)
            interests[number] = interests.get(number, 0) | mask
    return interests


class _Hidden(type):
    """The type of a class that users get instances of, but do not make any by it."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"cannot create '{cls.__module__}.{cls.__qualname__}' instances")


class _Poll(metaclass=_Hidden):
    """A poll object whose `poll` parks in green code."""

    __slots__ = ("__weakref__", "_masks", "_native", "_parked")
    __module__ = "select"
    __qualname__ = "poll"

    @staticmethod
    def make() -> _Poll:
        """Make one around a new native object. Never parks."""
        made = object.__new__(_Poll)
        made._native = _native_poll()
        made._masks = {}
        made._parked = False
        return made

    _native: Any
    _masks: dict[int, int]
    _parked: bool

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        return self._native.__reduce_ex__(protocol)  # raises: there are no copies

    def register(self, fd: Any, eventmask: int = IN | PRI | OUT, /) -> None:
        """Watch a descriptor, or watch it for something else. Never parks."""
        self._native.register(fd, eventmask)
        self._masks[_number(fd)] = eventmask

    def modify(self, fd: Any, eventmask: int, /) -> None:
        """Watch a registered descriptor for something else. Never parks."""
        self._native.modify(fd, eventmask)
        self._masks[_number(fd)] = eventmask

    def unregister(self, fd: Any, /) -> None:
        """Stop watching a descriptor. Never parks."""
        self._native.unregister(fd)
        del self._masks[_number(fd)]

    def poll(self, timeout: float | None = None, /) -> list[tuple[int, int]]:
        """Wait for events, `timeout` milliseconds at most. Parks.

        Returns:
            Pairs of descriptor and events; none when the time is up.
        """
        if self._parked:
            raise RuntimeError("concurrent poll() invocation")
        green = green_caller()
        if green is None:
            return self._native.poll(timeout)  # type: ignore[no-any-return]
        seconds = poll_seconds(timeout)
        found: list[tuple[int, int]] = self._native.poll(0)
        if seconds == 0 or found:
            take_turn(green)
            return found
        self._parked = True
        try:
            return self._wait(green, _deadline(green, seconds))
        finally:
            self._parked = False

    def _wait(self, green: Green, deadline: float | None) -> list[tuple[int, int]]:
        if self._masks:
            attempt: partial[list[tuple[int, int]]] = partial(self._native.poll, 0)
            return wait_until(green, attempt, dict(self._masks), deadline)
        green.what = "select.poll"
        while park(green, deadline, green.parks) is not TIMED_OUT:
            pass
        return []


_Poll.__name__ = "poll"


@like(_native_poll)
def poll() -> _Poll:
    return _Poll.make()


class _Wrapper(type):
    """The type of a class that stands for a C type: the C type's own instances pass for its instances."""

    native: Any

    def __instancecheck__(cls, instance: object) -> bool:
        return type.__instancecheck__(cls, instance) or isinstance(instance, cls.native)

    def __subclasscheck__(cls, other: type) -> bool:
        return type.__subclasscheck__(cls, other) or issubclass(other, cls.native)


class _Queue(metaclass=_Wrapper):
    """What `epoll` and `kqueue` have in common: a kernel queue behind a descriptor that is itself pollable."""

    __slots__ = ("__weakref__", "_native")
    native: Any = type(None)
    _native: Any

    def __init_subclass__(cls, *, native: Any = None) -> None:
        if native is None:
            base = cls.__mro__[1]
            raise TypeError(f"type '{base.__module__}.{base.__name__}' is not an acceptable base type")
        cls.native = native
        cls.__module__ = "select"
        cls.__qualname__ = cls.__name__

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._native = type(self).native(*args, **kwargs)

    @classmethod
    def fromfd(cls, fd: int, /) -> Any:
        """Make an object for a descriptor that is already open. Never parks."""
        made = cls.__new__(cls)
        made._native = cls.native.fromfd(fd)
        return made

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        return self._native.__reduce_ex__(protocol)  # raises: a copy would close the descriptor under the first one

    @property
    def closed(self) -> bool:
        """Whether it is closed."""
        return self._native.closed  # type: ignore[no-any-return]

    def fileno(self) -> int:
        """Tell the descriptor. Never parks."""
        return self._native.fileno()  # type: ignore[no-any-return]

    def close(self) -> None:
        """Close the descriptor; greens that wait for it get EBADF. Closing twice is harmless. Never parks."""
        if not self._native.closed:
            forget(self._native.fileno())
        self._native.close()

    def __del__(self) -> None:
        native = getattr(self, "_native", None)
        if native is not None and not native.closed:
            forget(native.fileno())  # the native object is about to close it

    def _wait(self, green: Green, attempt: partial[list[Any]], seconds: float | None) -> list[Any]:
        found = attempt()
        if seconds == 0 or found:
            take_turn(green)
            return found
        return wait_readable_until(green, attempt, self._native.fileno(), _deadline(green, seconds))


if _native_epoll is not None:

    class epoll(_Queue, native=_native_epoll):  # noqa: N801 - the native name
        """An epoll object whose `poll` parks in green code."""

        __slots__ = ()

        def register(self, *args: Any, **kwargs: Any) -> None:
            """Watch a descriptor. Never parks."""
            self._native.register(*args, **kwargs)

        def modify(self, *args: Any, **kwargs: Any) -> None:
            """Watch a registered descriptor for something else. Never parks."""
            self._native.modify(*args, **kwargs)

        def unregister(self, *args: Any, **kwargs: Any) -> None:
            """Stop watching a descriptor. Never parks."""
            self._native.unregister(*args, **kwargs)

        def poll(self, timeout: float | None = None, maxevents: int = -1) -> list[tuple[int, int]]:
            """Wait for events, `timeout` seconds at most. Parks.

            Returns:
                Pairs of descriptor and events; none when the time is up.
            """
            green = green_caller()
            if green is None:
                return self._native.poll(timeout, maxevents)  # type: ignore[no-any-return]
            seconds = epoll_seconds(timeout)
            return self._wait(green, partial(self._native.poll, 0, maxevents), seconds)

        def __enter__(self) -> epoll:
            self._native.__enter__()
            return self

        def __exit__(
            self,
            kind: type[BaseException] | None = None,
            error: BaseException | None = None,
            traceback: TracebackType | None = None,
            /,
        ) -> None:
            self.close()


if _original.kqueue is not None:

    class kqueue(_Queue, native=_original.kqueue):  # noqa: N801 - the native name
        """A kqueue object whose `control` parks in green code."""

        __slots__ = ()

        def control(self, changelist: Any, max_events: int, timeout: float | None = None, /) -> list[Any]:
            """Change what is watched, and wait for at most `max_events` events, `timeout` seconds at most. Parks."""
            green = green_caller()
            if green is None or not max_events:
                return self._native.control(changelist, max_events, timeout)  # type: ignore[no-any-return]
            seconds = select_seconds(timeout)
            found: list[Any] = self._native.control(changelist, max_events, 0)
            if found:
                take_turn(green)
                return found
            return self._wait(green, partial(self._native.control, None, max_events, 0), seconds)


_CLASSES = [value for name, value in globals().items() if name in ("epoll", "kqueue")]
_HIDDEN = {} if _native_poll is None else {"select.poll": (type(_native_poll()), _Poll)}
GROUP = Group("select", patches(select_module, [select, poll, *_CLASSES]), hidden=_HIDDEN)
