"""Task factories: every task of a loop in greens, so that a blocking call anywhere below it parks.

Theory of operation
===================
The task is asyncio's own; its coroutine is a thin one around the user's. Each step of the task (`send` or `throw`) is a
call on a pooled green in which the host is visible from the start, so that nothing but the greenlet is exchanged:

* A step that does not park hands what the coroutine yielded to the task, and the green goes back to the pool. So a
  task that waits in `await` has no green: ten thousand idle ones cost no stacks.
* A step that parks is a `Step`, which the task awaits in place of what the coroutine will yield. Cancellation comes to
  it as to any `Call`. When the step has ended, the task is stepped, and is handed what the coroutine has yielded then.

**One task, one green, where it matters.** What refers to a green wants the same one at the next step: a library's
greenlet that was made in it and returns to its parent (SQLAlchemy), a lock that was taken in it, a timeout. So a green
to which something still refers after a step, which its reference count tells, stays with the task; so does one that
has parked, since that task may well park again.

**Truth.** `Task.get_coro()` and `get_stack()` tell of the user's coroutine, and asyncio's debug output does, since the
thin one has every attribute of the user's.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio import AbstractEventLoop, CancelledError
from collections.abc import Callable, Coroutine, Generator
from inspect import signature
from types import FrameType
from typing import Any, TypeVar, get_type_hints

from ._asyncio import AnyTask, current_task, enter_task, forget_makers, leave_task
from ._await import trim
from ._call import POOL_LIMIT, Call, cancel_again, give_up, relay_on, worker
from ._green import ENDED, RELAYED, Green, getcurrent, new_green, thread_state
from ._host import Host, host_of

__all__ = ["eager_task_factory", "task_factory"]

T = TypeVar("T")

_AT_REST = 3
"""References to a green after its step if nobody else has one: a local variable, the pool, and who counts."""


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
        """Keep the green for the next step. Right after it has switched out, so that it is the last in the pool."""
        idle = green.thread.idle
        if self.error is None and idle and idle[-1] is green:
            self.kept = idle.pop()
        elif len(idle) > POOL_LIMIT:
            idle.pop()


class GreenCoroutine(Coroutine[Any, Any, T]):
    """The user's coroutine, each step of it in a green."""

    __slots__ = ("__weakref__", "_green", "_loop", "_parked", "_send", "coroutine", "step")

    def __init__(self, coroutine: Any, loop: AbstractEventLoop) -> None:
        self.coroutine: Coroutine[Any, Any, T] = coroutine
        self.step: Step | None = None
        self._green: Green | None = None
        self._loop = loop
        self._parked: Coroutine[Any, Any, None] | None = None
        self._send = coroutine.send

    def send(self, value: Any, fn: Any = None) -> Any:
        """Run the next step, by `fn` if not by the coroutine's own `send`; return what is to be awaited."""
        if self._parked is not None:
            try:
                return self._go_on(self._parked.send if fn is None else self._parked.throw, value)
            except BaseException as error:
                trim(error)
                raise
        loop: Any = self._loop
        try:
            host: Host = loop._greenio_host
        except AttributeError:
            host = host_of(loop)
        outer = getcurrent()
        thread = host.thread
        if outer is not thread.main and thread is not thread_state():
            host.bind()
            thread = host.thread
        idle = thread.idle
        green = self._green
        if green is None or green.thread is not thread:
            green = idle.pop() if idle else new_green(worker, thread)
        else:
            self._green = None
        task: Any = current_task(loop)
        green.host = host
        green.task = task
        green.parent = outer
        green.gr_context = outer.gr_context
        green.visible = True
        active = thread.active
        thread.active = green
        try:
            outcome = green.switch(self._send if fn is None else fn, (value,), None)
        finally:
            thread.active = active
        if outcome is not ENDED:
            enter_task(loop, task)  # it was left where the green parks
            step = self.step = green.call = Step(green)
            host.calls.add(step)
            parked = self._parked = _wait_for(step, task, relayed=outcome is RELAYED)
            del green, outer, outcome
            try:
                return self._go_on(parked.send, None)
            except BaseException as error:
                trim(error)
                raise
        green.visible = False
        green.gr_context = None
        failure = green.error
        if failure is None:
            outcome, green.outcome = green.outcome, None
            if _count(green) > _AT_REST:
                self._green = idle.pop()
            return outcome
        green.error = None
        if len(idle) > POOL_LIMIT:
            idle.pop()
        del green, outer, outcome
        try:
            raise failure
        except StopIteration:
            raise
        except BaseException:
            trim(failure)
            raise
        finally:
            del failure  # or its traceback would make a ring

    def throw(self, *error: Any) -> Any:
        """Raise an exception in the next step; return what is to be awaited."""
        try:
            return self.send(error[0] if len(error) == 1 else error[1] or error[0], self.coroutine.throw)
        except BaseException as failure:
            trim(failure)
            raise

    def close(self) -> None:
        """End the coroutine."""
        parked, self._parked = self._parked, None
        if parked is not None:
            parked.close()
        self.coroutine.close()

    def __await__(self) -> Generator[Any, None, T]:
        return self.coroutine.__await__()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.coroutine, name)

    def __repr__(self) -> str:
        return repr(self.coroutine)

    def _go_on(self, fn: Any, value: Any) -> Any:
        """Step what waits for the parked step; when that has ended, return or raise what it did."""
        try:
            return fn(value)
        except StopIteration:
            pass
        except BaseException as error:
            self._parked = self.step = None
            trim(error)
            raise
        step = self.step
        assert step is not None
        self._parked = self.step = None
        self._green, step.kept = step.kept, None
        if step.late is not None:
            task: Any = current_task(self._loop)
            cancel_again(task, step.late)
        if step.error is None:
            return step.value
        failure, step.error = step.error, None
        try:
            raise failure
        except BaseException:
            trim(failure)
            raise
        finally:
            del failure


_count = sys.getrefcount


async def _wait_for(step: Step, task: AnyTask, *, relayed: bool) -> None:
    """Wait until a step has ended."""
    try:
        if relayed:
            await relay_on(step, task)
        if not step.ended:
            await step
    except BaseException as error:
        if not step.ended:
            give_up(step, error)
        raise


class Task(asyncio.Task[T]):
    """asyncio's Task, which tells of the user's coroutine."""

    __slots__ = ()

    def get_coro(self) -> Any:
        """Return the coroutine that the task was made of. Never parks."""
        coroutine = super().get_coro()
        return coroutine.coroutine if isinstance(coroutine, GreenCoroutine) else coroutine

    def _set_coro(self, coroutine: Any) -> None:
        green: Any = super().get_coro()
        green.coroutine, green._send = coroutine, coroutine.send

    _coro = property(get_coro, _set_coro)  # greenback sets one of its own, in place of what the task has run so far

    def set_name(self, value: object) -> None:
        """Set the name. CPython 3.13.0 sets None where none is given, if there is a task factory. Never parks."""
        if value is not None:
            super().set_name(value)

    def get_stack(self, *, limit: int | None = None) -> list[FrameType]:
        """Return the frames where the task waits: those of a blocking call too, if it is parked in one. Never parks."""
        coroutine: Any = super().get_coro()
        step = getattr(coroutine, "step", None)
        if step is None or not step.green.waiting:
            return super().get_stack(limit=limit)
        frames = _frames(step.green)[:limit]
        frames.reverse()
        return frames


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
    loop: AbstractEventLoop, coro: Coroutine[Any, Any, T] | Generator[Any, None, T], **options: Any
) -> asyncio.Task[T]:
    """Make tasks in which blocking calls park: for `loop.set_task_factory`. Never parks itself.

    Each step of such a task runs in a greenlet, so that patched calls anywhere below it wait without holding the loop.
    Everything else is as in any task: `current_task()`, cancellation, timeouts, context variables, task groups.

    Args:
        loop: The loop.
        coro: The coroutine.
        **options: What `asyncio.Task` takes: `name`, `context`.

    Returns:
        The task, an `asyncio.Task`.
    """
    task: Task[T] = Task(GreenCoroutine(coro, loop), loop=loop, **options)
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
        **options: What `asyncio.Task` takes: `name`, `context`.

    Returns:
        The task, an `asyncio.Task`.
    """
    return made  # type: ignore[no-any-return]


eager_task_factory: Callable[..., asyncio.Task[Any]] = (
    _eager_task_factory() if sys.version_info >= (3, 12) else task_factory
)
"""Public on CPython 3.12 and later, where tasks can be eager."""
