"""The ways in and out beside `to_greenlet` and `await_`: tasks, programs, decorators, threads."""

from __future__ import annotations

import asyncio
import functools
import sys
from asyncio import AbstractEventLoop, Task
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import copy_context
from inspect import isawaitable
from types import CoroutineType
from typing import Any, ParamSpec, TypeVar

from .. import _original
from ._asyncio import get_running_loop
from ._await import drive, show_host
from ._call import no_function, to_greenlet
from ._green import current_green
from ._host import host_of
from ._tracebacks import trim

__all__ = [
    "NativeWork",
    "async_to_sync",
    "current_loop",
    "get_loop",
    "in_greenlet",
    "is_native_work",
    "offload",
    "run",
    "spawn",
    "sync_to_async",
]

P = ParamSpec("P")
T = TypeVar("T")


def in_greenlet() -> bool:
    """Tell whether the caller is green: whether blocking calls park here. Never parks."""
    return current_green() is not None


def current_loop() -> AbstractEventLoop | None:
    """Look up the loop that runs here, or that hosts the caller, who is green; None if there is none."""
    loop = get_running_loop()
    if loop is not None:
        return loop
    green = current_green()
    return None if green is None else green.host.loop


def get_loop() -> AbstractEventLoop:
    """Look up the host loop from green code, where `asyncio.get_running_loop()` tells of none. Never parks.

    Raises:
        RuntimeError: The caller is not in a greenlet.
    """
    green = current_green()
    if green is None:
        raise RuntimeError(
            "get_loop() was called outside a greenlet; in async code use asyncio.get_running_loop(), "
            "in sync code run the function inside `await to_greenlet(fn)`"
        )
    return green.host.loop


def spawn(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Task[T]:
    """Run a blocking function green in a task of its own, from async or from green code. Never parks.

    Args:
        fn: The function.
        *args: Its positional arguments.
        **kwargs: Its keyword arguments.

    Returns:
        The task. Await it in async code; in green code, `await_(task)`. Keep a reference, as with any task.

    Raises:
        RuntimeError: There is no host loop.
        TypeError: `fn` cannot be called.
    """
    if not callable(fn):
        raise no_function("spawn()", fn)
    loop = get_running_loop()
    if loop is not None:
        return loop.create_task(to_greenlet(fn, *args, **kwargs))
    green = current_green()
    if green is None:
        raise RuntimeError("spawn() needs a running loop or a greenlet; from plain sync code call greenio.run(fn)")
    outside = show_host(green)  # an eager task starts here and now, and must find its loop
    try:
        return green.host.loop.create_task(to_greenlet(fn, *args, **kwargs))
    finally:
        if outside is not None:
            outside()


def run(
    fn: Callable[..., T],
    /,
    *args: Any,
    loop_factory: Callable[[], AbstractEventLoop] | None = None,
    debug: bool | None = None,
) -> T:
    """Run a function green on a new event loop, as `asyncio.run` does for a coroutine. From plain sync code.

    The function parks where it waits; the caller blocks until it has ended, and never parks. What is left then is
    cancelled, and its `finally` blocks run, before the loop is closed.

    Args:
        fn: The function; a coroutine function is driven in the greenlet.
        *args: Its positional arguments.
        loop_factory: What makes the loop, for example `uvloop.new_event_loop`; None for asyncio's default.
        debug: asyncio's debug mode; None leaves the default.

    Returns:
        What `fn` returns.

    Raises:
        RuntimeError: A loop is running in this thread already.
        TypeError: `fn` cannot be called.
        BaseException: What `fn` raises.
    """
    if not callable(fn):
        raise no_function("run()", fn)
    if get_running_loop() is not None:
        raise RuntimeError("greenio.run() was called from a running event loop; write `await to_greenlet(fn)` instead")
    main = _main(fn, args)
    try:
        return _run(main, loop_factory, debug)
    except BaseException as error:
        main.close()  # the loop factory failed
        trim(error)
        raise


async def _main(fn: Callable[..., T], args: tuple[Any, ...]) -> T:
    """Run `fn`, and wait for the threads that it made greenlets of, as the interpreter does at its end."""
    try:
        return await to_greenlet(fn, *args)
    except BaseException as error:
        trim(error)
        raise
    finally:
        threads = host_of(asyncio.get_running_loop()).threads
        while joined := [task for task, thread in threads.copy().items() if thread.joined]:
            await asyncio.wait(joined)


if sys.version_info >= (3, 11):

    def _run(
        main: Coroutine[Any, Any, T], loop_factory: Callable[[], AbstractEventLoop] | None, debug: bool | None
    ) -> T:
        with asyncio.Runner(debug=debug, loop_factory=loop_factory) as runner:
            return runner.run(main)

else:  # CPython 3.10

    def _run(
        main: Coroutine[Any, Any, T], loop_factory: Callable[[], AbstractEventLoop] | None, debug: bool | None
    ) -> T:
        loop = (loop_factory or _original.new_event_loop)()
        if debug is not None:
            loop.set_debug(debug)
        _original.set_event_loop(loop)
        try:
            return loop.run_until_complete(main)
        finally:
            try:
                _cancel_all(loop)
                loop.run_until_complete(loop.shutdown_asyncgens())
                loop.run_until_complete(loop.shutdown_default_executor())
            finally:
                _original.set_event_loop(None)
                loop.close()


def _cancel_all(loop: AbstractEventLoop) -> None:
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    for task in left:
        if not task.cancelled() and (error := task.exception()) is not None:
            loop.call_exception_handler(
                {"message": "unhandled exception during greenio.run() shutdown", "exception": error, "task": task}
            )


def sync_to_async(fn: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Make a coroutine function of a blocking one: decorator for `to_greenlet`. Never parks; the blocking one may.

    Args:
        fn: The blocking function.

    Returns:
        A coroutine function with the signature of `fn`.

    Raises:
        TypeError: `fn` cannot be called.
    """
    if not callable(fn):
        raise no_function("sync_to_async()", fn, "a function")

    @functools.wraps(fn)
    async def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await to_greenlet(fn, *args, **kwargs)
        except BaseException as error:
            trim(error)
            raise

    return call


def async_to_sync(afn: Callable[P, Awaitable[T]]) -> Callable[P, T]:
    """Make a blocking function of a coroutine function: decorator for `await_`. Never parks; the blocking one may.

    In green code the call is driven on the host loop, and parks. In native code without a running loop it runs on a
    loop of its own, by `asyncio.run`. In a running loop it raises RuntimeError: there the coroutine function itself is
    right. What `afn` returns must be awaitable, or the call raises TypeError.

    Args:
        afn: The coroutine function.

    Returns:
        A function with the signature of `afn`.

    Raises:
        TypeError: `afn` cannot be called.
    """
    if not callable(afn):
        raise no_function("async_to_sync()", afn, "a coroutine function")

    @functools.wraps(afn)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        green = current_green()
        try:
            if green is not None:
                return drive(green, _awaitable(afn, afn(*args, **kwargs)))  # type: ignore[no-any-return]
            if get_running_loop() is not None:
                raise RuntimeError(
                    f"{getattr(afn, '__qualname__', afn)!s} was made sync by async_to_sync and called in a running "
                    f"loop; await the original, or call this inside `await to_greenlet(fn)`"
                )
            return asyncio.run(_await(_awaitable(afn, afn(*args, **kwargs))))
        except BaseException as error:
            trim(error)
            raise

    return call


def _awaitable(afn: Callable[..., Awaitable[T]], found: Awaitable[T]) -> Awaitable[T]:
    if found.__class__ is CoroutineType or isawaitable(found):
        return found
    raise TypeError(f"async_to_sync() takes a coroutine function, not {afn!r}, which returned {found!r}")


async def _await(awaitable: Awaitable[T]) -> T:
    return await awaitable


class NativeWork(functools.partial[Any]):
    """What is meant for a real thread: an executor whose workers are greenlets hands it on to one whose are threads."""

    __slots__ = ()


def is_native_work(fn: Any) -> bool:
    """Tell whether a function is for a real thread: `offload`'s, or what a loop gives its own default executor."""
    if fn.__class__ is NativeWork:
        return True
    if getattr(fn, "__wrapped__", fn) in (_original.getaddrinfo, _original.getnameinfo):
        return True
    return getattr(fn, "__module__", None) == "asyncio.base_events"


def _catch_stop(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> tuple[T | None, StopIteration | None]:
    """Call a function; return what it returned, and what no Future can hold."""
    try:
        return fn(*args, **kwargs), None
    except StopIteration as error:
        return None, error


def offload(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a function in a thread of the host loop's default executor while this greenlet is parked.

    For what cannot park: C extensions, long computations, files. Outside a greenlet it is a plain call. The thread
    works in a copy of the caller's context. A cancelled wait leaves the thread to finish by itself; its result is
    dropped.

    Args:
        fn: The function.
        *args: Its positional arguments.
        **kwargs: Its keyword arguments.

    Returns:
        What `fn` returns.

    Raises:
        CancelledError: The host task was cancelled.
        TypeError: `fn` cannot be called.
        BaseException: What `fn` raises.
    """
    if not callable(fn):
        raise no_function("offload()", fn)
    green = current_green()
    if green is None:
        return fn(*args, **kwargs)
    context = copy_context()
    future = green.host.loop.run_in_executor(None, NativeWork(context.run, _catch_stop, fn, *args, **kwargs))
    try:
        result, stop = drive(green, future)
        if stop is not None:
            raise stop
        return result  # type: ignore[no-any-return]
    except BaseException as error:
        trim(error)
        raise
