"""`logging`: its locks, which are older than any patch, and records that native code writes while a green is at it.

A handler keeps its lock while it writes, so a green may park with it. Greens and other threads wait for it. Native code
of the same thread, a coroutine say, cannot: its record is written by a greenlet when its turn comes, in order.
"""

from __future__ import annotations

import logging
import os
from asyncio import CancelledError, Task
from collections import deque
from dataclasses import dataclass, field
from typing import Any
from weakref import ref

from .. import _original
from .._core import Green, Host, current_green, getcurrent, thread_state, to_greenlet
from .._sync import PassableRLock, holder_in_this_thread
from ._table import like, patches

__all__ = ["LOGGING", "exchange_logging_locks", "restore_logging_locks"]

_handle = logging.Handler.handle
_create_lock = logging.Handler.createLock
_make_record = logging.Logger.makeRecord


@dataclass(eq=False)
class _Backlog:
    """The records that are still to be written by one handler, by one greenlet."""

    host: Host
    records: deque[logging.LogRecord] = field(default_factory=deque)
    task: Task[None] | None = None


_backlogs: dict[logging.Handler, _Backlog] = {}
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_backlogs.clear)  # the parent writes them


@like(_handle)
def handle(self: logging.Handler, record: logging.LogRecord) -> Any:
    if current_green() is not None or (backlog := _backlog_of(self)) is None:
        return _handle(self, record)
    found: Any = self.filter(record)
    if found:
        backlog.records.append(found if isinstance(found, logging.LogRecord) else record)
        if backlog.task is None:
            backlog.task = backlog.host.loop.create_task(to_greenlet(_write, self, backlog))
    return found


def _backlog_of(handler: logging.Handler) -> _Backlog | None:
    """Look up where native code of this thread has to leave a record; None if it can write it itself."""
    backlog = _backlogs.get(handler)
    if backlog is not None:
        if backlog.host.loop.is_closed():
            del _backlogs[handler]
            for record in backlog.records:
                _handle(handler, record)
            return None
        return backlog if backlog.host.thread is thread_state() else None
    lock = handler.lock
    holder = holder_in_this_thread(lock) if isinstance(lock, PassableRLock) else None
    if holder is None:
        return None
    backlog = _backlogs[handler] = _Backlog(holder.host)
    return backlog


def _write(handler: logging.Handler, backlog: _Backlog) -> None:
    late = None
    try:
        while backlog.records:
            late = _write_some(handler, backlog.records) or late
    finally:
        if _backlogs.get(handler) is backlog:
            del _backlogs[handler]
    if late is None:
        return
    try:
        raise late
    finally:
        del late


def _write_some(handler: logging.Handler, records: deque[logging.LogRecord]) -> CancelledError | None:
    """Write what there is when the turn comes; return the first cancellation, which stops no other record."""
    late = _acquire(handler)
    try:
        for _ in range(len(records)):
            record = records.popleft()
            try:
                handler.emit(record)
            except CancelledError as error:
                late = late or error
            except Exception:
                handler.handleError(record)
    finally:
        handler.release()
    return late


def _acquire(handler: logging.Handler) -> CancelledError | None:
    """Wait for a handler's lock even if the loop, which is coming to its end, cancels that; return the cancellation."""
    late = None
    while True:
        try:
            handler.acquire()
            return late
        except CancelledError as error:
            late = late or error


@like(_create_lock)
def createLock(self: Any) -> None:  # noqa: N802
    _create_lock(self)
    if isinstance(self.lock, PassableRLock | type(None)):
        return
    self.lock = PassableRLock()


_exchanged: list[tuple[ref[Any], str, Any, PassableRLock]] = []


def exchange_logging_locks() -> None:
    """Exchange the lock of the module and those of the handlers there are, held or not."""
    owners: list[tuple[Any, str]] = [(logging, "_lock")]
    owners += [(handler, "lock") for handler in (found() for found in _handlers()) if handler is not None]
    for owner, name in owners:
        old = getattr(owner, name, None)
        if type(old) is _original.RLock:
            new = PassableRLock(old)
            setattr(owner, name, new)
            _exchanged.append((ref(owner), name, old, new))


def _handlers() -> list[Any]:
    return list(getattr(logging, "_handlerList", ()))


def restore_logging_locks() -> None:
    """Put the old locks back. One that is in use at this moment stays as it is, which excludes no less."""
    while _exchanged:
        found, name, old, new = _exchanged.pop()
        owner = found()
        if getattr(owner, name, None) is new and not new.is_in_use():
            setattr(owner, name, old)
            new.leave()


@like(_make_record)
def makeRecord(self: logging.Logger, *args: Any, **kwargs: Any) -> logging.LogRecord:  # noqa: N802
    record: Any = _make_record(self, *args, **kwargs)
    green: Any = getcurrent()
    if green.__class__ is not Green and (green.parent is None or (green := current_green()) is None):
        return record  # type: ignore[no-any-return]
    if getattr(logging, "logAsyncioTasks", False) and record.taskName is None:
        record.taskName = green.task.get_name()
    return record  # type: ignore[no-any-return]


_RECORDS = [makeRecord] if hasattr(logging, "logAsyncioTasks") else []
"""From 3.12 on records have the name of the task. Green code is the host task's, though no task is current there."""

LOGGING = (
    *patches(logging.Handler, [handle, createLock], cooperates=True),
    *patches(logging.Logger, _RECORDS, cooperates=True),
)
"""Rows of the group "threading"."""
