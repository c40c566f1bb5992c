"""Task factories: every task of a loop in greens, so that a blocking call anywhere below it parks.

Theory of operation
===================
The task is asyncio's own; its coroutine is a generator that runs the user's. Each step of the task (`send` or `throw`)
is a call on a pooled green in which the host is visible from the start, so that nothing but the greenlet is exchanged:

* A step that does not park hands what the coroutine yielded to the task, and the green goes back to the pool. So a
  task that waits in `await` has no green: ten thousand idle ones cost no stacks.
* A step that parks is a `Step`, which the task awaits in place of what the coroutine will yield. Cancellation comes to
  it as to any `Call`. When the step has ended, the task is stepped, and is handed what the coroutine has yielded then.

**One task, one green, where it matters.** What refers to a green wants the same one at the next step: a library's
greenlet that was made in it and returns to its parent (SQLAlchemy), a lock that was taken in it, a timeout. So a green
to which something still refers after a step, which its reference count tells, stays with the task; so does one that
has parked, since that task may well park again.

**Truth.** `Task.get_coro()` and `get_stack()` tell of the user's coroutine, and so does asyncio's debug output.
"""

from __future__ import annotations

import asyncio
import sys
import types
from asyncio import AbstractEventLoop, CancelledError
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from inspect import signature
from types import CoroutineType, FrameType
from typing import Any, TypeVar, get_type_hints

from ._asyncio import AnyTask, current_task, enter_task, forget_makers, leave_task
from ._call import POOL_LIMIT, Call, cancel_again, give_up, relay_on
from ._fork import leave
from ._green import (
    ENDED,
    RELAYED,
    Forked,
    Green,
    ThreadState,
    check,
    getcurrent,
    new_green,
    pass_on_at_rest,
    thread_state,
)
from ._host import host_of
from ._tracebacks import trim

__all__ = ["eager_task_factory", "task_factory"]

T = TypeVar("T")

_AT_REST = 2
"""References to a green after its step if nobody else has one: a local variable, and who counts."""


class Step(Call):
    """What a task awaits while a step of its coroutine is parked: done when that step has ended."""

    __slots__ = ("kept",)

    def __init__(self, green: Green) -> None:
        super().__init__(green)
        self.kept: Green | None = None

    def finish(self, value: Any, error: BaseException | None) -> None:
        """Take the outcome: what the coroutine yielded, or StopIteration, or its exception."""
        green = self.green
        leave_task(self.host.loop, green.task)
        if green.cancellation is not None and not isinstance(error, CancelledError):
            self.late, green.cancellation = green.cancellation, None  # for what the coroutine awaits next
        super().finish(value, error)

    def keep(self, green: Green) -> None:
        """Keep the green for the next step, if there is one. Right after it has switched out."""
        green.parent = green.thread.main
        if self.error is None:
            self.kept = green
        else:
            _rest(green)

    def take(self) -> tuple[Green | None, Any, BaseException | None]:
        """Hand out the green that was kept, what the coroutine yielded, and its exception."""
        taken = self.kept, self.value, self.error
        self.kept = self.value = self.error = None
        return taken


def _stepper() -> None:
    """Run step after step on one green, visibly. At rest it refers to nothing of the last step, and not to itself."""
    green: Any
    home: Any
    green, home, fn, argument = getcurrent().parent.switch()  # type: ignore[union-attr]
    while True:
        try:
            green.outcome = fn(argument)
        except StopIteration as caught:  # the end of the coroutine; nothing here takes long
            green.error = caught
        except BaseException as caught:
            if green.__class__ is Forked and isinstance(caught, SystemExit):
                leave(caught)
            trim(caught)
            green.error = caught
        if green.identity is not None:
            green.identity.end()
            green.identity = None
        if green.call is not None:
            home = _end_parked(green)
        green.host = green.task = green.what = green = fn = argument = None
        try:
            job = home(ENDED)
        except BaseException as caught:
            job = pass_on_at_rest(None, caught)
        if getcurrent().host is None:  # type: ignore[attr-defined]
            job = pass_on_at_rest(job)
        green, home, fn, argument = job
        job = None


def _end_parked(green: Green) -> Callable[[object], Any]:
    """Hand over the outcome of a step that has parked; tell where to go then."""
    if green.timer is not None:
        green.disarm()
    outcome, green.outcome = green.outcome, None
    error, green.error = green.error, None
    green.call.finish(outcome, error)  # type: ignore[union-attr]
    return green.parent.switch  # type: ignore[union-attr]


def _new_stepper(thread: ThreadState) -> Green:
    """Make a green at rest for steps. Its parent at rest is the main greenlet, so that few steps have to set it."""
    green = new_green(_stepper, thread)
    green.visible = True
    green.parent = thread.main
    return green


def _rest(green: Green) -> None:
    """Put a green back after the last step that wanted it."""
    if len(green.thread.steppers) < POOL_LIMIT:
        green.thread.steppers.append(green)


@types.coroutine
def _steps(coroutine: Any, loop: Any) -> Generator[Any, Any, Any]:
    """Run a coroutine, each step of it in a green; yield what it yields, or what waits for a step that is parked.

    It is stepped once before it is given to a task, so that even a cancellation before the first step comes by here.
    Between two steps this refers neither to its task, which would make a ring, nor to any greenlet but a kept one.
    """
    send = coroutine.send
    active: Any
    failure: Any
    green: Any
    host: Any
    kept: Any
    outer: Any
    step: Any
    task: Any
    host = kept = yielded = None
    try:
        while True:
            try:
                argument = yield yielded
                fn = send
            except GeneratorExit:
                raise
            except BaseException as error:
                own = error.__traceback__  # this frame's, which no task would add
                fn, argument = coroutine.throw, error.with_traceback(own.tb_next if own is not None else None)
                own = None
            yielded = None
            if host is None:  # not before: a host is made in a loop that runs
                try:
                    host = loop._greenio_host
                except AttributeError:
                    host = host_of(loop)
            outer = getcurrent()
            thread = host.thread
            inside = outer is not thread.main  # in a loop that green code runs, or in another thread than before
            if inside and thread is not thread_state():
                host.bind()
                thread = host.thread
            if kept is None or kept.thread is not thread:
                green = thread.steppers.pop() if thread.steppers else _new_stepper(thread)
            else:
                green = kept
            kept = None
            task = current_task(loop)
            if task._coro is not coroutine:
                coroutine = task._coro
                fn = coroutine.send if fn is send else coroutine.throw
                send = coroutine.send
            green.host = host
            green.task = task
            green.gr_context = outer.gr_context
            active = thread.active
            thread.active = green
            if inside:
                green.parent = outer
            try:
                outcome = green.switch(green, outer.switch, fn, argument)
                if outcome is not ENDED and not green.waiting:
                    outcome = check(green, outcome)
            finally:
                thread.active = active
            argument = fn = active = outer = None
            if outcome is ENDED:
                task = green.gr_context = None
                if inside:
                    green.parent = thread.main
                failure = green.error
                if failure is None:
                    yielded, green.outcome = green.outcome, None
                    if _count(green) > _AT_REST:
                        kept = green
                    elif len(thread.steppers) < POOL_LIMIT:  # as `_rest` does, without a call in every step
                        thread.steppers.append(green)
                    green = None
                    continue
                green.error = None
                _rest(green)
                green = None
            else:
                enter_task(loop, task)  # it was left where the green parks
                step = green.call = Step(green)
                host.calls.add(step)
                green = None
                yield from _wait_for(step, task, relayed=outcome is RELAYED)
                kept, yielded, failure = step.take()
                step = task = None
                if failure is None:
                    continue
            if failure.__class__ is StopIteration:
                return failure.value
            raise failure
    except BaseException as error:
        trim(error)
        raise
    finally:
        failure = None  # or its traceback would make a ring


async def _awaited(steps: Any) -> Any:
    try:
        return await steps
    except BaseException as error:
        trim(error)
        raise


_AS_COROUTINE = sys.version_info >= (3, 12)
"""Whether a task wants more than a generator under `types.coroutine`."""


_count = sys.getrefcount


async def _wait_for(step: Step, task: AnyTask, *, relayed: bool) -> None:
    """Wait until a step has ended."""
    try:
        if relayed:
            await relay_on(step, task)
        if not step.ended:
            await step
        if step.late is not None:
            cancel_again(task, step.late)
    except BaseException as error:
        if not step.ended:
            give_up(step, error)
        raise


class Task(asyncio.Task[T]):
    """asyncio's Task, which tells of the user's coroutine.

    Attributes:
        _coro: The user's coroutine, where asyncio's debug output looks for it. greenback sets another in its place.
    """

    _coro: Any
    __slots__ = ("_coro",)

    def get_coro(self) -> Any:
        """Return the coroutine that the task was made of. Never parks."""
        return self._coro

    def set_name(self, value: object) -> None:
        """Set the name. CPython 3.13.0 sets None where none is given, if there is a task factory. Never parks."""
        if value is not None:
            super().set_name(value)

    def get_stack(self, *, limit: int | None = None) -> list[FrameType]:
        """Return the frames where the task waits: those of a blocking call too, if it is parked in one. Never parks."""
        green = next((call.green for call in host_of(self.get_loop()).calls if _is_step_of(self, call)), None)
        if green is None or not green.waiting:
            return super().get_stack(limit=limit)
        frames = _frames(green)[:limit]
        frames.reverse()
        return frames


def _is_step_of(task: Task[Any], call: Call) -> bool:
    return isinstance(call, Step) and call.green.task is task


def _frames(green: Green) -> list[FrameType]:
    """List the frames of a parked green, the innermost first, without those of this package."""
    frames: list[FrameType] = []
    greenlet: Any = green.leaf
    while greenlet is not None:
        frame = greenlet.gr_frame
        while frame is not None:
            if str(frame.f_globals.get("__name__")).partition(".")[0] != _PACKAGE:
                frames.append(frame)
            frame = frame.f_back
        greenlet = greenlet.parent if greenlet is not green else None
    return frames


_PACKAGE = __name__.partition(".")[0]


def task_factory(
    loop: AbstractEventLoop,
    coro: Coroutine[Any, Any, T] | Generator[Any, None, T],
    *,
    context: Context | None = None,
    **options: Any,
) -> asyncio.Task[T]:
    """Make tasks in which blocking calls park: for `loop.set_task_factory`. Never parks itself.

    Each step of such a task runs in a greenlet, so that patched calls anywhere below it wait without holding the loop.
    Everything else is as in any task: `current_task()`, cancellation, timeouts, context variables, task groups.

    Args:
        loop: The loop.
        coro: The coroutine.
        context: The context that it runs in, from CPython 3.11 on; None is a copy of the current one.
        **options: What else `asyncio.Task` takes, such as `name`.

    Returns:
        The task, an `asyncio.Task`.
    """
    if coro.__class__ is not CoroutineType and not asyncio.iscoroutine(coro):
        raise TypeError(f"a coroutine was expected, got {coro!r}")
    steps = _awaited(_steps(coro, loop)) if _AS_COROUTINE else _steps(coro, loop)
    steps.send(None)
    if options or context is not None:
        if context is not None:
            options["context"] = context
        task: Task[T] = Task.__new__(Task)
        task._coro = coro
        task.__init__(steps, loop=loop, **options)  # type: ignore[misc]  # may begin at once
    else:
        task = Task(steps, loop=loop)
        task._coro = coro
    if task._source_traceback:  # type: ignore[attr-defined]
        forget_makers(task, __file__)
    return task


def _make(coro: Any, *, loop: AbstractEventLoop, **options: Any) -> asyncio.Task[Any]:
    """Make a task as `asyncio.Task` does."""
    return task_factory(loop, coro, **options)


def _eager_task_factory() -> Callable[..., asyncio.Task[Any]]:
    """Have asyncio make one around `_make`: anyio knows those by their code, and has them make lazy tasks."""
    made: Any = asyncio.create_eager_task_factory(_make)  # type: ignore[attr-defined, unused-ignore]
    made.__module__, made.__name__, made.__qualname__ = __name__, "eager_task_factory", "eager_task_factory"
    made.__signature__ = signature(task_factory)
    made.__annotations__ = get_type_hints(task_factory)
    made.__doc__ = """Make such tasks as `task_factory` does, that start at once as asyncio's eager ones. Never parks.

    If the first step parks, whoever made the task goes on.

    Args:
        loop: The loop.
        coro: The coroutine.
        context: The context that it runs in; None is a copy of the current one.
        **options: What else `asyncio.Task` takes, such as `name`.

    Returns:
        The task, an `asyncio.Task`.
    """
    return made  # type: ignore[no-any-return]


eager_task_factory: Callable[..., asyncio.Task[Any]] = (
    _eager_task_factory() if sys.version_info >= (3, 12) else task_factory
)
"""Public on CPython 3.12 and later, where tasks can be eager."""
