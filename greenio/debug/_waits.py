"""What a parked green waits for: which descriptor and whose, which lock and who has it, and until when."""

from __future__ import annotations

import _socket
import os
import stat
import sys
from asyncio import Future, Task
from dataclasses import dataclass
from typing import Any

from .. import _original
from .._core import Green, Side, parked_since
from .._sync import End, Row, Shared, owner_of, runner_of
from ._stacks import caller_in_library

__all__ = ["Wait", "address_of", "name_of_end", "name_of_owner", "name_of_shared", "name_of_thread", "wait_of"]


@dataclass(frozen=True)
class Wait:
    """What one parked green waits for.

    Attributes:
        what: In words: "readable fd=7", "lock", "time.sleep", "a task".
        call: The function of the standard library that waits, as in "queue.Queue.get"; None if there is none.
        fd: The descriptor; None if it is none, or several.
        address: The peer of a socket, or what else the descriptor is.
        owner: Who has the lock, if that is known.
        seconds_left: Until the wait gives up; None if it never does.
        seconds_waited: Since it parked; None if nobody has noted it (see `record`).
    """

    what: str
    call: str | None = None
    fd: int | None = None
    address: str | None = None
    owner: str | None = None
    seconds_left: float | None = None
    seconds_waited: float | None = None

    def __str__(self) -> str:
        text = self.what
        if self.address is not None:
            text += f" ({self.address})"
        if self.call is not None:
            text += f" in {self.call}()"
        if self.owner is not None:
            text += f", which {self.owner} has"
        if self.seconds_left is not None:
            text += f", for {self.seconds_left:.3f} s more"
        if self.seconds_waited is not None:
            text += f", since {self.seconds_waited:.3f} s"
        return text


def wait_of(green: Green) -> Wait:
    """Tell what a parked green waits for."""
    what, fd, address, owner = _tell(green.what)
    deadline, since = green.deadline, parked_since(green)
    return Wait(
        what,
        call=caller_in_library(green),
        fd=fd,
        address=address,
        owner=owner,
        seconds_left=None if deadline is None else deadline - green.host.clock(),
        seconds_waited=None if since is None else _original.monotonic() - since,
    )


def _tell(what: object) -> tuple[str, int | None, str | None, str | None]:
    if isinstance(what, Side):
        return f"{_direction(what)} fd={what.watch.fd}", what.watch.fd, address_of(what.watch.fd), None
    if isinstance(what, list):
        return " or ".join(_tell(side)[0] for side in what) or "nothing", None, None, None
    if isinstance(what, End):
        return name_of_end(what.thread()), None, None, None
    if isinstance(what, Shared):
        return name_of_shared(what), None, None, name_of_owner(owner_of(what))
    if isinstance(what, Task):
        return f"task {what.get_name()!r}", None, None, None
    if isinstance(what, Future):
        return repr(what), None, None, None
    return "one turn of the loop" if what is None else str(what), None, None, None


def _direction(side: Side) -> str:
    return "writable" if side is side.watch.writer else "readable"


def name_of_shared(shared: Shared) -> str:
    """Name a lock or a queue by its kind and address."""
    if isinstance(shared, Row):
        return f"its turn at {shared.of}"
    if isinstance(shared, End):
        return name_of_end(shared.thread())
    return f"{type(shared).__name__.replace('allocate_lock', 'lock')} at {id(shared):#x}"


def name_of_end(thread: Any) -> str:
    """Name the end of a thread by what that runs in."""
    return f"the end of {'a thread' if thread is None else name_of_owner(runner_of(thread))}"


def name_of_owner(owner: Green | int | None) -> str | None:
    """Name who has a lock: the task of a green, or the thread."""
    if owner is None:
        return None
    if isinstance(owner, Green):
        task = getattr(owner, "task", None)
        return f"green {id(owner):#x}" + (f" of task {task.get_name()!r}" if task is not None else "")
    return name_of_thread(owner)


def name_of_thread(thread_id: int | None) -> str:
    """Name a thread by its name in `threading`, if it has one there."""
    known = {thread.ident: thread.name for thread in _threads()}
    name = known.get(thread_id)
    return f"thread {name!r}" if name is not None else f"thread {thread_id}"


def _threads() -> list[Any]:
    # Not `threading.enumerate()`: it waits for a lock, which the thread that a signal interrupts may have.
    module = sys.modules.get("threading")
    return list(getattr(module, "_active", {}).values())


def address_of(fd: int) -> str | None:
    """Tell whose descriptor it is: the peer of a socket, or what the system calls it. Never parks."""
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            return os.readlink(f"/proc/self/fd/{fd}")
        return _peer(fd)
    except OSError:
        return None


def _peer(fd: int) -> str | None:
    default = _socket.getdefaulttimeout()
    blocks = default is None or os.get_blocking(fd)
    sock = _socket.socket(fileno=fd)
    try:
        if default is not None and blocks:
            _original.set_blocking(fd, True)  # a default timeout has just made it non-blocking
        return _address(sock)
    finally:
        sock.detach()


def _address(sock: _socket.socket) -> str | None:
    try:
        return f"peer {_shown(sock.getpeername())}"
    except OSError:
        return f"at {_shown(sock.getsockname())}"  # it listens, or is not connected


def _shown(address: Any) -> str:
    if isinstance(address, tuple) and len(address) >= 2:
        host = f"[{address[0]}]" if ":" in str(address[0]) else address[0]
        return f"{host}:{address[1]}"
    return repr(address) if address else "unnamed"
