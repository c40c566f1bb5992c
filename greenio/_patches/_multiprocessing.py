"""`multiprocessing`: what waits for a process, for a connection, or for a semaphore.

The package is large and few programs use it. So each of its modules is patched when it has been imported, and patching
imports none.
"""

from __future__ import annotations

from asyncio import CancelledError
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

from .._core import Green, reader
from ._connections import connection_patches, queue_patches
from ._executors import pool_patches, without_parks
from ._process_ends import wait_for_end
from ._semaphores import insist, reach_semaphores, release_semaphores, semaphore_patches
from ._socket_state import green_caller
from ._table import Group, Patch, like, patches

__all__ = ["GROUP"]


@cache
def _process_patches(module: Any) -> tuple[Patch, ...]:
    """Make the patches of `multiprocessing.popen_fork`, whose `wait` serves every way to start a process."""
    native_wait = module.Popen.wait

    @like(native_wait)
    def wait(self: Any, timeout: float | None = None) -> int | None:
        green = green_caller()
        if green is not None and timeout is None and self.returncode is None:
            _wait_for_end(green, self)
        return native_wait(self, timeout)  # type: ignore[no-any-return]

    return patches(module.Popen, [wait])


def _wait_for_end(green: Green, popen: Any) -> None:
    """Park until a process has ended. A child of the fork server is none of ours: a pipe tells of its end."""
    if popen.method == "forkserver":
        reader(green.host, popen.sentinel).wait_level(green, None)
    else:
        wait_for_end(green, popen.pid, None)


@cache
def _server_patches(module: Any) -> tuple[Patch, ...]:
    """Make the patches of `multiprocessing.forkserver`."""
    native_read = module.read_signed

    @like(native_read)
    def read_signed(fd: int) -> int:
        green = green_caller()
        if green is not None:
            reader(green.host, fd).wait_level(green, None)
        return native_read(fd)  # type: ignore[no-any-return]

    return (
        *patches(module, [read_signed]),
        *patches(module.ForkServer, [without_parks(module.ForkServer.ensure_running)]),
    )


@cache
def _tracker_patches(module: Any) -> tuple[Patch, ...]:
    """Make the patches of `multiprocessing.resource_tracker`."""
    # Nothing parks under its lock, nor under the fork server's: a pool of processes takes both natively.
    return patches(module.ResourceTracker, [without_parks(module.ResourceTracker.ensure_running)])


@cache
def _queue_patches(module: Any) -> tuple[Patch, ...]:
    """Make the patches of `multiprocessing.queues`."""
    return (*queue_patches(module), *patches(module.JoinableQueue, [insist(module.JoinableQueue.task_done)]))


_values: WeakKeyDictionary[Any, WeakKeyDictionary[Any, dict[str, Any]]] = WeakKeyDictionary()
"""What green code has set on thread-locals of `multiprocessing`, by host task."""


def _values_of(green: Green, local: Any) -> dict[str, Any]:
    by_local = _values.get(green.task)
    if by_local is None:
        by_local = _values[green.task] = WeakKeyDictionary()
    return by_local.setdefault(local, {})


@cache
def _local_patches(module: Any) -> tuple[Patch, ...]:
    """Make the patches of `multiprocessing.util`: the connections to a manager are a green's own.

    A proxy sends its request and waits for the answer on a connection that belongs to the thread. Were it shared by the
    greens of a loop, one would read what another has asked for.
    """
    owner = module.ForkAwareLocal
    native_get, native_set, native_delete = owner.__getattribute__, owner.__setattr__, owner.__delattr__

    @like(native_get)
    def get(self: Any, name: str) -> Any:
        green = green_caller()
        if green is None or hasattr(type(self), name):
            return native_get(self, name)
        try:
            return _values_of(green, self)[name]
        except KeyError:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}") from None

    @like(native_set)
    def set_(self: Any, name: str, value: Any) -> None:
        green = green_caller()
        if green is None:
            native_set(self, name, value)
        else:
            _values_of(green, self)[name] = value

    @like(native_delete)
    def delete(self: Any, name: str) -> None:
        green = green_caller()
        if green is None:
            native_delete(self, name)
        elif _values_of(green, self).pop(name, self) is self:
            raise AttributeError(name)

    return patches(owner, [get, set_, delete])


@cache
def _manager_patches(module: Any) -> tuple[Patch, ...]:
    """Make the patches of `multiprocessing.managers`.

    Nobody reads the answer that another call gave up waiting for; and a server that is not known to have started, which
    nobody could shut down, is ended.
    """
    native_call, native_start = module.BaseProxy._callmethod, module.BaseManager.start

    @like(native_call)
    def _callmethod(self: Any, *args: Any, **kwargs: Any) -> Any:
        if green_caller() is None:
            return native_call(self, *args, **kwargs)
        try:
            return native_call(self, *args, **kwargs)
        except Exception:  # the manager's answer, or none is to come
            raise
        except BaseException:
            connection = getattr(self._tls, "connection", None)
            if connection is not None:
                del self._tls.connection  # the next call makes another
                connection.close()
            raise

    @like(native_start)
    def start(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return native_start(self, *args, **kwargs)
        except CancelledError:
            process = getattr(self, "_process", None)
            if process is not None and process.pid is not None:
                process.kill()
                process.join()
            raise

    return (*patches(module.BaseProxy, [_callmethod]), *patches(module.BaseManager, [start]))


GROUP = Group(
    "multiprocessing",
    (),
    undo=release_semaphores,
    late={
        "concurrent.futures.process": pool_patches,
        "multiprocessing.connection": connection_patches,
        "multiprocessing.forkserver": _server_patches,
        "multiprocessing.managers": _manager_patches,
        "multiprocessing.popen_fork": _process_patches,
        "multiprocessing.queues": _queue_patches,
        "multiprocessing.resource_tracker": _tracker_patches,
        "multiprocessing.synchronize": semaphore_patches,
        "multiprocessing.util": _local_patches,
    },
    do=reach_semaphores,
)
