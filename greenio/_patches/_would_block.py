"""The table of calls that may block the loop, and how to tell by looking whether one would.

To look must change nothing: no octet is read, no event consumed, no lock taken that the call would not take itself.
"""

from __future__ import annotations

import _socket
import os
import select
import selectors
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .. import _original
from .._sync import Lock, PassableRLock, RLock, SimpleQueue
from . import _select
from ._blocking import Policy, Watched, guard
from ._fcntl import ATTEMPTS
from ._pipe_files import Native, waits
from ._resolver import is_numeric
from ._table import Patch, patches

__all__ = ["TABLE", "guards"]

_BRIEF = 0.01
"""Seconds for which another thread may hold a lock: two switch intervals, so as not to count critical sections."""

_HALF_CLOSED = getattr(select, "POLLRDHUP", 0)
"""The event of a socket whose peer will send no more, where there is one."""

_SHUTDOWN = " (_do_shutdown)"
"""Ends the name of the thread in which a loop shuts its executor down. uvloop, which joins it, has no frame to know."""

_SLEEP = (
    "write `await asyncio.sleep(seconds)`, or call the sync code above it in a greenlet: `await to_greenlet(fn, ...)`"
)
_LOCK = "use the lock, event or queue of asyncio, or wait in a greenlet: `await to_greenlet(fn, ...)`"
_LOOK_UP = "write `await loop.getaddrinfo(...)`, or call it in a greenlet: `await to_greenlet(fn, ...)`"
_CHILD = "use `asyncio.create_subprocess_exec`, or wait in a greenlet: `await to_greenlet(fn, ...)`"


def _positive(timeout: Any) -> bool:
    return timeout is None or timeout > 0


def _wait_waits(what: Any, timeout: Any = None) -> bool:
    return _positive(timeout)


def _anything(*args: Any, **kwargs: Any) -> bool:
    return True


def _sleeps(seconds: float) -> bool:
    return seconds > 0


# Sockets


def _ready(fd: int, events: int) -> bool:
    assert _original.poll is not None
    poller = _original.poll()
    poller.register(fd, events)
    return bool(poller.poll(0))


def _waits(sock: socket.socket, *args: Any, **kwargs: Any) -> bool:
    """Tell whether a socket waits at all: by its timeout, and where there is none by the mode of the descriptor."""
    fd = sock.fileno()
    timeout = sock.gettimeout()
    if fd < 0 or timeout == 0:
        return False
    # One that greenio has adopted has a C timeout of zero, and `gettimeout` tells the user's all the same.
    return timeout is not None or os.get_blocking(fd) or _socket.socket.gettimeout(sock) == 0


def _unless_told(place: int) -> Callable[..., bool]:
    """Make the condition of a method whose flags, which may say MSG_DONTWAIT, are its argument number `place`."""

    def may(sock: socket.socket, *args: Any, **kwargs: Any) -> bool:
        flags = kwargs.get("flags", args[place] if len(args) > place else 0)
        return not (isinstance(flags, int) and flags & socket.MSG_DONTWAIT) and _waits(sock)

    return may


def _unreadable(sock: socket.socket, *args: Any, **kwargs: Any) -> bool:
    return not _ready(sock.fileno(), select.POLLIN)


def _unwritable(sock: socket.socket, *args: Any, **kwargs: Any) -> bool:
    return not _ready(sock.fileno(), select.POLLOUT)


def _overfull(sock: socket.socket, data: Any = b"", *args: Any, **kwargs: Any) -> bool:
    """Tell whether there is no room for data, or surely not for all of it."""
    if _unwritable(sock):
        return True
    return memoryview(data).nbytes > sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)


def _connects(sock: socket.socket, address: Any) -> bool:
    """Tell whether `connect` asks a peer: over TCP it does."""
    return sock.type == socket.SOCK_STREAM and sock.family in (socket.AF_INET, socket.AF_INET6) and _waits(sock)


def _no_record(sock: Any, *args: Any, **kwargs: Any) -> bool:
    return not sock.pending() and _unreadable(sock)


# Descriptors


def _selects(rlist: Any, wlist: Any, xlist: Any, timeout: Any = None) -> bool:
    return _positive(timeout) and not any(hasattr(fds, "__next__") for fds in (rlist, wlist, xlist))


def _selects_nothing(rlist: Any, wlist: Any, xlist: Any, timeout: Any = None) -> bool:
    return not any(_original.select_select(rlist, wlist, xlist, 0))


def _polls(poller: Any, timeout: Any = None, *args: Any) -> bool:
    return timeout is None or timeout != 0


def _polls_nothing(poller: Any, *args: Any, **kwargs: Any) -> bool:
    return not poller._native.poll(0)


def _nothing_behind(queue: Any, *args: Any, **kwargs: Any) -> bool:
    """Tell whether an epoll has no event: it is itself readable when it has, and its events stay."""
    return not _ready(queue.fileno(), select.POLLIN)


def _selector_has_nothing(selector: Any, timeout: Any = None) -> bool:
    if hasattr(selector, "fileno"):
        return _nothing_behind(selector)
    assert _original.poll is not None
    poller = _original.poll()
    for key in selector.get_map().values():
        reads, writes = key.events & selectors.EVENT_READ, key.events & selectors.EVENT_WRITE
        poller.register(key.fd, (select.POLLIN if reads else 0) | (select.POLLOUT if writes else 0))
    return not poller.poll(0)


# Look-ups


def _has_name(host: Any, *args: Any, **kwargs: Any) -> bool:
    return not is_numeric(host)


def _wants_name(sockaddr: Any, flags: int = 0) -> bool:
    return not flags & socket.NI_NUMERICHOST


# Locks, threads, futures


def _lock_waits(lock: Any, blocking: bool, timeout: float) -> bool:
    return blocking and timeout != 0


def _stays_locked(lock: Any, _: Any, timeout: float) -> bool:
    """Look for a moment whether a lock is let go: a critical section of another thread is no wait."""
    end = _original.monotonic() + (_BRIEF if timeout < 0 else min(timeout, _BRIEF))
    while lock.locked():
        if _original.monotonic() >= end:
            return True
        _original.sleep(_BRIEF / 20)
    return False


def _wait_is_right(condition: Any, timeout: Any = None) -> bool:
    return bool(condition._is_owned())


def _queue_waits(queue: Any, block: bool = True, timeout: Any = None) -> bool:
    return block and _positive(timeout)


def _is_empty(queue: Any, *args: Any, **kwargs: Any) -> bool:
    return bool(queue.empty())


def _is_alive(thread: Any, *args: Any, **kwargs: Any) -> bool:
    return thread.is_alive() and not thread.name.endswith(_SHUTDOWN)


# Children, signals, file locks


def _runs(child: Any, *args: Any, **kwargs: Any) -> bool:
    return child.poll() is None


def _connection_empty(connection: Any, *args: Any) -> bool:
    return not _ready(connection.fileno(), select.POLLIN)


def _connection_full(connection: Any, data: Any) -> bool:
    return not _ready(connection.fileno(), select.POLLOUT)


def _may_block(fd: int, *args: Any) -> bool:
    try:
        return os.get_blocking(fd)
    except OSError:
        return False  # the call itself tells what is wrong with it


def _descriptor_empty(fd: int, *args: Any) -> bool:
    return not _ready(fd, select.POLLIN)


def _descriptor_full(fd: int, *args: Any) -> bool:
    return not _ready(fd, select.POLLOUT)


def _file_may_block(file: Any, *args: Any) -> bool:
    return file.readable() and waits(file.fileno()) and os.get_blocking(file.fileno())


def _file_empty(file: Any, *args: Any) -> bool:
    return not _ready(file.fileno(), select.POLLIN)


def _file_goes_on(file: Any) -> bool:
    """Tell whether the end of a file has not come yet, so that who reads all of it waits for more."""
    assert _original.poll is not None
    poller = _original.poll()
    poller.register(file.fileno(), select.POLLIN | _HALF_CLOSED)
    return not any(events & (select.POLLHUP | _HALF_CLOSED) for _, events in poller.poll(0))


def _waits_for_child(pid: int, options: int = 0, *args: Any) -> bool:
    return not options & os.WNOHANG


def _waits_for_child_id(kind: int, number: int, options: int) -> bool:
    return not options & os.WNOHANG


def _child_runs(pid: int = -1, *args: Any) -> bool:
    """Tell whether no child that a wait would take has ended; WNOWAIT leaves its status where it is."""
    kind, number = (os.P_ALL, 0) if pid == -1 else (os.P_PGID, -pid) if pid < 0 else (os.P_PID, pid)
    return _original.waitid(kind, number, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def _child_of_kind_runs(kind: Any, number: int, options: int) -> bool:
    return _original.waitid(kind, number, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def _is_held(attempt: Callable[..., object]) -> Callable[..., bool]:
    """Make the condition of a file lock: that it cannot be had. If it can, it is taken, and the call takes it again."""

    def does(*args: Any) -> bool:
        try:
            attempt(*args)
        except BlockingIOError:
            return True
        return False

    return does


def _none_pending(signals: Any, *args: Any) -> bool:
    return not signal.sigpending() & set(signals)


_READS = {"recv": 1, "recv_into": 2, "recvfrom": 1, "recvfrom_into": 2, "recvmsg": 2, "recvmsg_into": 2}
_WRITES = {"send": 1, "sendmsg": 2, "sendto": 1}
"""Where the flags are among the arguments of each method."""


def _socket_rows() -> Iterator[Watched]:
    for name, place in _READS.items():
        yield Watched(f"socket.socket.{name}", _unless_told(place), _unreadable)
    for name, place in _WRITES.items():
        yield Watched(f"socket.socket.{name}", _unless_told(place), _unwritable)
    yield Watched("socket.socket.sendall", _unless_told(1), _overfull)
    yield Watched("socket.socket.sendfile", _waits, _unwritable)
    yield Watched("socket.socket.accept", _waits, _unreadable)
    for name in ("connect", "connect_ex"):
        yield Watched(f"socket.socket.{name}", _connects)


def _select_rows() -> Iterator[Watched]:
    yield Watched("select.select", _selects, _selects_nothing)
    for _, stand_in in _select.GROUP.hidden.values():
        yield Watched("select.poll", _polls, _polls_nothing, owner=stand_in, name="poll", call="select.poll.poll")
    epoll: Any = getattr(_select, "epoll", None)
    if epoll is not None:
        yield Watched("select.epoll", _polls, _nothing_behind, owner=epoll, name="poll", call="select.epoll.poll")
    for name in ("SelectSelector", "PollSelector", "EpollSelector", "DevpollSelector", "KqueueSelector"):
        if hasattr(selectors, name):
            yield Watched(f"selectors.{name}.select", _wait_waits, _selector_has_nothing)


TABLE: tuple[Watched, ...] = (
    Watched("time.sleep", _sleeps, instead=_SLEEP),
    *_socket_rows(),
    Watched("ssl.SSLSocket.read", _waits, _no_record),
    Watched("ssl.SSLSocket.write", _waits, _overfull),
    Watched("ssl.SSLSocket.send", _waits, _overfull),
    Watched("ssl.SSLSocket.do_handshake", _waits, _unreadable),
    Watched("ssl.SSLSocket.unwrap", _waits, _unreadable),
    *_select_rows(),
    *(
        Watched(f"socket.{name}", _has_name, instead=_LOOK_UP)
        for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex")
    ),
    Watched("socket.gethostbyaddr", _anything, instead=_LOOK_UP),
    Watched("socket.getnameinfo", _wants_name, instead=_LOOK_UP),
    Watched(
        "threading.Lock", _lock_waits, _stays_locked, _LOCK, owner=Lock, name="_take", call="threading.Lock.acquire"
    ),
    Watched(
        "threading.RLock", _lock_waits, _stays_locked, _LOCK, owner=RLock, name="_take", call="threading.RLock.acquire"
    ),
    Watched(
        "threading.RLock",
        _lock_waits,
        _stays_locked,
        _LOCK,
        owner=PassableRLock,
        name="_take",
        call="threading.RLock.acquire",
    ),
    Watched(
        "queue.SimpleQueue", _queue_waits, _is_empty, _LOCK, owner=SimpleQueue, name="get", call="queue.SimpleQueue.get"
    ),
    Watched("threading.Condition.wait", _wait_waits, _wait_is_right, _LOCK),
    Watched("threading.Thread.join", _wait_waits, _is_alive),
    *(Watched(f"os.{name}", _may_block, _descriptor_empty) for name in ("read", "readv")),
    *(Watched(f"os.{name}", _may_block, _descriptor_full) for name in ("write", "writev")),
    *(
        Watched("io.open", _file_may_block, does, owner=Native, name=name, call=f"io.FileIO.{name}")
        for name, does in (("readinto", _file_empty), ("read", _file_empty), ("readall", _file_goes_on))
    ),
    Watched("subprocess.Popen._wait", _wait_waits, _runs, _CHILD, call="subprocess.Popen.wait"),
    Watched("subprocess.Popen.communicate", _anything, _runs, _CHILD),
    Watched("os.waitpid", _waits_for_child, _child_runs, _CHILD),
    Watched("os.wait4", _waits_for_child, _child_runs, _CHILD),
    Watched("os.wait", _anything, _child_runs, _CHILD),
    Watched("os.waitid", _waits_for_child_id, _child_of_kind_runs, _CHILD),
    Watched("os.system", _anything, instead=_CHILD),
    Watched("multiprocessing.popen_fork.Popen.wait", _wait_waits, _runs, call="multiprocessing.Process.join"),
    Watched("multiprocessing.connection.Connection._recv_bytes", _anything, _connection_empty),
    Watched("multiprocessing.connection.Connection._send_bytes", _anything, _connection_full),
    *(Watched(target, _anything, _is_held(attempt)) for target, attempt in ATTEMPTS.items()),
    Watched("signal.sigwait", _wait_waits, _none_pending),
    Watched("signal.sigwaitinfo", _wait_waits, _none_pending),
    Watched("signal.sigtimedwait", _wait_waits, _none_pending),
    Watched("signal.pause", _anything),
)
"""Every call that is looked at. Rows of names that nobody has patched lie idle."""


def guards(applied: Mapping[str, Patch], policy: Policy) -> tuple[Patch, ...]:
    """Make the guards of what is patched now.

    Args:
        applied: What is patched, by its full name.
        policy: What is to be done about calls that would block.
    """
    found = [Patch(Native, "watched", True)] if "io.open" in applied else []
    for row in TABLE:
        patch = applied.get(row.target)
        if patch is not None:
            owner = row.owner or patch.owner
            found += patches(owner, [guard(row, getattr(owner, row.name or patch.name), policy)])
    return tuple(found)
