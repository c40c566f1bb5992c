"""`await_`: async code, driven by sync code.

The awaitable is stepped on the greenlet itself, as a Task would step it, with the host loop and the host task visible.
What never suspends never parks. What yields a Future parks until that Future is done; then the next step runs straight
from the Future's callback.

A cancellation goes where a Task would send it: first to the Future that is awaited (so that awaiting a child task
cancels the child), and into the coroutine only if that Future would not have it.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, Handle
from collections.abc import Awaitable, Callable
from contextvars import Context
from functools import partial
from inspect import iscoroutine
from types import CoroutineType, GeneratorType
from typing import Any, TypeVar, cast

from ._asyncio import (
    AnyTask,
    Hooks,
    current_task,
    enter_task,
    get_hooks,
    get_running_loop,
    leave_task,
    set_hooks,
    set_running_loop,
)
from ._green import READY, Green, current_green, park, relay, relays, resume_if_waiting, switch_out
from ._tracebacks import trim

__all__ = ["await_", "drive", "show_host", "yield_once"]

T = TypeVar("T")


def await_(awaitable: Awaitable[T]) -> T:
    """Wait for an awaitable from green code and return its result. Parks when the awaitable suspends.

    While the awaitable runs, the running loop and the current task are those of the `await to_greenlet(...)` that this
    greenlet belongs to; cancellation, `asyncio.timeout`, task groups and anyio scopes in it work as in that task.

    Args:
        awaitable: A coroutine, a Future, a Task, or any object with `__await__`.

    Returns:
        What `await awaitable` returns.

    Raises:
        RuntimeError: The caller is not in a greenlet.
        TypeError: The argument cannot be awaited.
        BaseException: What `await awaitable` raises.
    """
    green = current_green()
    if green is None:
        if iscoroutine(awaitable):
            awaitable.close()
        if get_running_loop() is not None:
            hint = "in async code write `await` instead"
        else:
            hint = "outside a running loop use `asyncio.run()`, or greenio.run() around the whole"
        raise RuntimeError(
            f"await_() was called outside a greenlet: {hint}; in sync code run it inside `await to_greenlet(fn)`"
        )
    try:
        return drive(green, awaitable)  # type: ignore[no-any-return]
    except BaseException as error:
        trim(error)
        raise


def _steps(awaitable: Any) -> Any:
    if awaitable.__class__ is CoroutineType:
        return awaitable
    method = getattr(type(awaitable), "__await__", None)
    if method is not None:
        return method(awaitable)
    if iscoroutine(awaitable) or (isinstance(awaitable, GeneratorType) and awaitable.gi_code.co_flags & 0x100):
        return awaitable  # a generator under @types.coroutine
    raise TypeError(
        f"await_() takes an awaitable, not {awaitable!r}; "
        f"call the coroutine function first, or call a plain function without await_()"
    )


def drive(green: Green, awaitable: Any) -> Any:
    """Step an awaitable to its end on `green`, with the host visible."""
    steps = _steps(awaitable)
    try:
        send = steps.send
    except AttributeError:
        send = partial(_next, steps)
    outside = show_host(green)
    try:
        yielded = send(None)
        while True:
            error = _wait_for(green, yielded)
            yielded = send(None) if error is None else _throw(steps, error)
    except StopIteration as stop:
        return stop.value
    finally:
        awaitable = yielded = error = None  # whichever holds the error: its traceback would make a ring
        if outside is not None:
            outside()


def _next(steps: Any, _: None) -> Any:
    return next(steps)


def _throw(steps: Any, error: BaseException) -> Any:
    try:
        if not hasattr(steps, "throw"):
            raise error
        return steps.throw(error)
    finally:
        del error  # or its traceback would make a ring


def _wait_for(green: Green, yielded: Any) -> BaseException | None:
    """Park until what a step yielded is done; return what is to be thrown into the next step."""
    host, task = green.host, green.task
    blocking = getattr(yielded, "_asyncio_future_blocking", None)
    if blocking is None:
        if yielded is not None:
            return RuntimeError(f"await_() got a bad yield: {yielded!r}")
    elif not blocking:
        return RuntimeError(f"yield was used instead of yield from with {yielded!r}")
    elif yielded.get_loop() is not host.loop:
        return RuntimeError(f"await_() got {yielded!r}, which is attached to a different loop than {host.loop!r}")
    green.what = yielded
    while True:
        mark = green.parks
        if relays(green):
            leave_task(host.loop, task)
            try:
                wake = relay(green, yielded, mark)
            finally:
                enter_task(host.loop, task)
            if wake is not READY:
                return cast(BaseException, wake)
        else:
            error = _park_until_done(green, yielded, mark)
            if error is not None:
                return error
        if yielded is None or yielded.done():
            return green.take_cancellation() if green.cancellation is not None else None
        yielded.remove_done_callback(green.on_done)


def _park_until_done(green: Green, yielded: Any, mark: int) -> BaseException | None:
    """Park until the Future that a step yielded wakes the green; return what was raised instead."""
    host, task = green.host, green.task
    turn: Handle | None = None
    if yielded is None:
        turn = host.loop.call_soon(resume_if_waiting, green, mark + 1, context=Context())
    else:
        yielded._asyncio_future_blocking = False
        yielded.add_done_callback(green.on_done)
        green.awaited = yielded
        if green.cancellation is not None and yielded.cancel(*green.cancellation.args):
            green.cancellation = None
    leave_task(host.loop, task)
    try:
        switch_out(green, None, mark)
    except BaseException as error:
        if turn is not None:
            turn.cancel()
        else:
            yielded.remove_done_callback(green.on_done)
        return error.with_traceback(None)
    finally:
        green.awaited = None
        enter_task(host.loop, task)
    return None


def show_host(green: Green) -> Callable[[], None] | None:
    """Show the host loop and the host task to code that runs on `green`.

    Returns:
        What to call to show again what was visible before; None if the host was visible already.
    """
    host = green.host
    hooks = get_hooks()
    if hooks[0] is None:
        inner = task = None
    else:
        inner = get_running_loop()
        task = current_task(inner) if inner is not None else None
        if green.visible and inner is host.loop and task is green.task:
            return None
        if inner is not None and task is not None:
            leave_task(inner, task)
    visible = green.visible
    set_hooks(*host.hooks)  # the first, for a finalizer that parks before the rest is done: see `park`
    set_running_loop(host.loop)
    green.visible = True
    enter_task(host.loop, green.task)
    return partial(_show, green, visible, inner, task, hooks)


def _show(green: Green, visible: bool, loop: AbstractEventLoop | None, task: AnyTask | None, hooks: Hooks) -> None:
    leave_task(green.host.loop, green.task)
    green.visible = visible
    set_running_loop(loop)
    set_hooks(*hooks)
    if loop is not None and task is not None:
        enter_task(loop, task)


def yield_once(green: Green) -> None:
    """Let every other callback that is ready have its turn. Parks."""
    green.what = "sleep(0)"
    mark = green.parks
    if relays(green) and get_hooks()[0] is None:
        wake = relay(green, None, mark)
        if wake is READY:
            return
        try:
            raise cast(BaseException, wake)
        finally:
            del wake
    turn = green.host.loop.call_soon(resume_if_waiting, green, mark + 1, context=Context())
    try:
        park(green, None, mark)
    except BaseException:
        turn.cancel()  # or it would wake a later park
        raise
