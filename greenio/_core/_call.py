"""`to_greenlet`: one call of a function on a pooled greenlet, and the one awaitable that stands for it.

The call is switched into at once. A function that ends without parking has returned before the loop hears of it. If it
parks, the host task awaits a single `Call` for all that follows: every wake-up switches straight from the loop into
the parked greenlet, and the task is stepped only when the function has ended.

A fresh greenlet costs many times what a reused one does (its frame stack is mapped and unmapped), so `worker` runs
call after call, and rests in its thread's pool in between, with nothing of the last call left in it.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, CancelledError, Future
from collections.abc import Callable, Generator
from contextvars import Context, copy_context
from inspect import iscoroutine, iscoroutinefunction
from types import CoroutineType, coroutine
from typing import Any, NoReturn, ParamSpec, TypeVar

from ._asyncio import (
    NO_HOOKS,
    AnyTask,
    current_task,
    enter_task,
    get_hooks,
    leave_task,
    set_hooks,
    set_running_loop,
)
from ._await import drive
from ._fork import leave
from ._green import (
    ENDED,
    READY,
    RELAYED,
    Abandoned,
    Forked,
    Green,
    ThreadState,
    Wake,
    check,
    getcurrent,
    new_green,
    pass_on_at_rest,
    resume,
    take_call,
    thread_state,
)
from ._host import Host, running_host
from ._tracebacks import trim

__all__ = ["POOL_LIMIT", "Call", "cancel_again", "give_up", "no_function", "relay_on", "to_greenlet", "worker"]

P = ParamSpec("P")
T = TypeVar("T")

POOL_LIMIT = 1000
"""Greens at rest that a thread keeps: so many for calls, and so many for steps of tasks."""


class Call:
    """What a host task awaits while its green is parked: future-like, done when the function has ended.

    It is no `asyncio.Future`, whose callbacks cost another turn of the loop: the loop callback in which the function
    ends steps the task itself.
    """

    __slots__ = (
        "_asyncio_future_blocking",
        "_callback",
        "_context",
        "due",
        "ended",
        "error",
        "green",
        "host",
        "late",
        "relaying",
        "value",
    )

    def __init__(self, green: Green) -> None:
        self._asyncio_future_blocking = False
        self._callback: Callable[[Call], object] | None = None
        self._context: Context | None = None
        self.due = False
        self.ended = False
        self.error: BaseException | None = None
        self.green = green
        self.host = green.host
        self.relaying = False
        self.late: CancelledError | None = None
        self.value: Any = None

    __class__ = property(lambda _: Future)  # what anyio asks, before it asks `done`

    def __await__(self) -> Generator[Call, None, None]:
        while not self.ended:
            self._asyncio_future_blocking = True
            yield self

    def get_loop(self) -> AbstractEventLoop:
        """Tell the host loop, as Tasks ask every future to."""
        return self.host.loop

    def add_done_callback(self, callback: Callable[[Call], object], *, context: Context | None = None) -> None:
        """Take the one callback that steps whoever awaits this call."""
        self._callback = callback
        self._context = context if context is not None else copy_context()

    def remove_done_callback(self, callback: Callable[[Call], object]) -> int:
        """Forget the callback, as whoever awaits the call does when it is thrown into."""
        removed = int(self._callback is not None and self._callback == callback)
        if removed:
            self._callback = self._context = None
        return removed

    def done(self) -> bool:
        """Tell whether whoever awaits the call is about to be stepped, or the call to be resumed by a cancellation.

        An anyio scope cancels a task once more unless what it awaits is done. For a native task that is so from the
        moment when it is cancelled.
        """
        green = self.green
        awaited = green.awaited
        return self.ended or self.due or green.cancellation is not None or (awaited is not None and awaited.done())

    def cancelled(self) -> bool:
        """Tell whether the function has ended in a cancellation, or one is under way; anyio asks."""
        if self.ended:
            return isinstance(self.error, CancelledError)
        green = self.green
        awaited = green.awaited
        return self.due or green.cancellation is not None or (awaited is not None and awaited.cancelled())

    def result(self) -> None:
        """Return nothing: the outcome is kept in `value` and `error`."""

    def wake(self) -> None:
        """Step whoever awaits the call. In a callback of the host loop, after the green has switched out."""
        callback, context = self._callback, self._context
        if callback is not None and context is not None:
            self._callback = self._context = None
            context.run(callback, self)

    def finish(self, value: Any, error: BaseException | None) -> None:
        """Take the outcome."""
        green = self.green
        if green.cancellation is not None:
            # It came too late for any park. The task must not miss it, as it would not in native code.
            if error is None:
                error = green.cancellation
            elif not isinstance(error, CancelledError):
                self.late = green.cancellation
            green.cancellation = None
        self.value = value
        self.error = error
        self.ended = True
        self.due = False
        self.host.calls.discard(self)

    def cancel(self, msg: Any = None) -> bool:
        """Have CancelledError raised where the function is parked, or at its next park if it is running.

        `Task.cancel`, `asyncio.timeout`, task groups and anyio scopes come here through the host task.
        """
        if self.ended:
            return False
        green = self.green
        if not (isinstance(msg, str) and msg.startswith(_OF_SCOPES)):
            green.cancels += 1
        if green.waiting:
            awaited = green.awaited
            if awaited is None:
                green.waiting = False
                self.due = True
                self.host.call_soon(self._deliver, _cancelled(msg))
                return True
            if (awaited.cancel() if msg is None else awaited.cancel(msg=msg)) or awaited.cancelled():
                return True  # a Task too makes one of two that come in the same turn, and takes the first
        if green.__class__ is Abandoned:
            self.finish(None, _cancelled(msg))
            self.host.call_soon(self.wake)
        elif green.cancellation is None and not self.due:
            green.cancellation = _cancelled(msg)
        return True

    def _deliver(self, error: CancelledError) -> None:
        self.due = False
        resume(self.green, error)

    def keep(self, green: Green) -> None:
        """Take the green for the next step, if this call was a step of a coroutine; see `_tasks`."""

    def release(self) -> Callable[[Call], object] | None:
        """Part the call from whoever awaits it; return what would have stepped them."""
        callback = self._callback
        self._callback = self._context = None
        return callback

    def __repr__(self) -> str:
        return f"<Call {'ended' if self.ended else 'of'} {self.green!r}>"


_OF_SCOPES = ("Cancelled by cancel scope ", "Cancelled via cancel scope ")
"""What anyio says when it cancels for a scope: that ends the scope alone, and is repeated until it has.

On CPython 3.10 no task counts it, so that a timeout around it would take it for somebody else's cancellation.
"""


def _cancelled(message: Any) -> CancelledError:
    return CancelledError() if message is None else CancelledError(message)


def worker() -> object:
    """Run call after call on one green. At rest it refers to nothing of the last call, and not to itself."""
    error: BaseException | None
    fn, args, kwargs = getcurrent().parent.switch()  # type: ignore[union-attr]
    green: Any = getcurrent()
    while True:
        try:
            # Without arguments, a call that takes no C frame of its own (3.11): those of a parked green are copied.
            outcome = fn(*args, **kwargs) if kwargs else fn(*args) if args else fn()
            if outcome.__class__ is CoroutineType and iscoroutinefunction(fn):
                outcome = drive(green, outcome)
            error = None
        except BaseException as caught:
            if green.__class__ is Forked and isinstance(caught, SystemExit):
                leave(caught)
            trim(caught)
            error = caught if callable(fn) else no_function("to_greenlet()", fn)
            outcome = None
        fn = args = kwargs = None
        if green.identity is not None:
            green.identity.end()
            green.identity = None
        call = green.call
        if call is None:
            green.outcome, green.error = outcome, error
        else:
            if green.timer is not None:
                green.disarm()
            call.finish(outcome, error)
        green.host = green.task = green.what = None
        idle = green.thread.idle
        if len(idle) >= POOL_LIMIT:
            return ENDED
        idle.append(green)
        parent = green.parent
        green = idle = call = outcome = error = None
        try:
            job = parent.switch(ENDED)
        except BaseException as caught:
            job = pass_on_at_rest(None, caught)
        green = getcurrent()
        if green.host is None:
            green = None
            job = pass_on_at_rest(job)
            green = getcurrent()
        fn, args, kwargs = job
        job = parent = None


def no_function(call: str, fn: Any, wanted: str = "a function and its arguments") -> TypeError:
    """Make the error for what cannot be called; a coroutine is closed, since nobody will await it."""
    hint = ""
    if iscoroutine(fn):
        fn.close()
        hint = "; `await` it, or pass the coroutine function"
    return TypeError(f"{call} takes {wanted}, not {fn!r}{hint}")


async def to_greenlet(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a blocking function in a greenlet of this loop's thread: `asyncio.to_thread` without the thread. Parks.

    While the function waits in a patched call, the loop and every other task go on. It shares the caller's context
    variables (changes are seen both ways), and sees no running loop, as in a worker thread. Cancelling the task raises
    CancelledError in the function, at the call it waits in. A coroutine function is driven to its end in the greenlet,
    so that blocking calls anywhere below it park.

    Args:
        fn: The function. It runs at once, up to the first call that waits.
        *args: Its positional arguments.
        **kwargs: Its keyword arguments.

    Returns:
        What `fn` returns.

    Raises:
        RuntimeError: There is no running loop, or no current task.
        TypeError: `fn` cannot be called.
        BaseException: What `fn` raises, with the traceback of its own frames.
    """
    hook = get_hooks()[0]  # the method of the loop that runs: asking for that itself takes a system call
    try:
        host: Host | None = hook.__self__._greenio_host  # type: ignore[union-attr]
    except AttributeError:
        host = None
    if host is None or host.hook is not hook:
        host = running_host()
    loop = host.loop
    task = current_task(loop)
    if task is None:
        raise RuntimeError("to_greenlet() needs a current task; wrap it: `asyncio.create_task(to_greenlet(fn))`")
    outer = getcurrent()
    thread = host.thread
    if outer is not thread.main and thread is not thread_state():
        host.bind()
        thread = host.thread
    idle = thread.idle
    green = idle.pop() if idle else new_green(worker, thread)
    green.host = host
    green.task = task
    green.parent = outer
    green.gr_context = outer.gr_context
    outcome = _start(green, host, task, thread, fn, args, kwargs)
    if outcome is ENDED:
        green.gr_context = None
        if green.error is None:
            outcome, green.outcome = green.outcome, None
            return outcome  # type: ignore[no-any-return]  # a cast would be a call
        try:
            _raise(green)
        except BaseException as error:
            trim(error)
            raise
    call = green.call = Call(green)
    host.calls.add(call)
    relayed = outcome is RELAYED
    del green, outer, outcome
    try:
        if relayed:
            await relay_on(call, task)
        if not call.ended:
            await call
    except BaseException as error:
        if not call.ended:
            give_up(call, error)
        trim(error)
        raise
    if call.error is None:
        return call.value  # type: ignore[no-any-return]
    if call.late is not None:
        cancel_again(task, call.late)
    try:
        _raise(call)
    except BaseException as error:
        trim(error)
        raise


def _start(green: Green, host: Host, task: AnyTask, thread: ThreadState, fn: Any, args: Any, kwargs: Any) -> object:
    """Switch into a green for the first time in a call; what it hands back tells whether the call has ended or parked.

    A function of its own, since greenlet makes a frame object of the frame that switches, and that of a coroutine would
    stay for as long as the call (330 bytes).
    """
    loop = host.loop
    active = thread.active
    thread.active = green
    leave_task(loop, task)
    set_running_loop(None)
    set_hooks(*NO_HOOKS)
    try:
        outcome = green.switch(fn, args, kwargs)
        if outcome is not ENDED and not green.waiting:
            outcome = check(green, outcome)
        return outcome
    finally:
        thread.active = active
        if not green.visible:
            set_running_loop(loop)
            set_hooks(*host.hooks)
        enter_task(loop, task)


def give_up(call: Call, error: BaseException) -> None:
    """End a call whose coroutine is being closed, or had something thrown into it past the Call."""
    host = call.host
    callback = call.release()
    host.end_call(call, f"the coroutine of this call was ended by {type(error).__name__}")
    if callback is not None and not host.loop.is_closed():
        host.call_soon(callback, call)  # whoever steps that coroutine finds it ended, but not from within it


@coroutine
def relay_on(call: Call, task: AnyTask) -> Generator[Any, None, None]:
    """Suspend the task on whatever the green awaits, and step the green, until it ends or waits for something else.

    A generator hands what it yields to whoever steps the coroutine that awaits it: the task, or an outer `await_`.
    """
    green, host = call.green, call.host
    loop = host.loop
    outcome: object = RELAYED
    call.relaying = True
    while outcome is RELAYED:
        wake: Wake = READY
        try:
            if green.waiting:  # not if something else has parked in the last moment; see `_green`
                yield green.awaited
        except GeneratorExit:
            call.relaying = False
            raise
        except BaseException as thrown:
            trim(thrown)
            wake = thrown
        if call.ended:
            return
        green.waiting = False
        thread = green.thread  # not the host's in a child that the green itself has forked
        active = thread.active
        thread.active = green
        green.parent = getcurrent()
        leave_task(loop, task)
        if not green.visible:
            set_running_loop(None)
            set_hooks(*NO_HOOKS)
        try:
            outcome = green.leaf.switch(wake)
            if outcome is not ENDED and outcome is not RELAYED and not green.waiting:
                outcome = check(green, outcome)
        finally:
            wake = None
            thread.active = active
            if not green.visible:
                set_running_loop(loop)
                set_hooks(*host.hooks)
            enter_task(loop, task)
    call.relaying = False
    if outcome is ENDED:
        take_call(green)


def cancel_again(task: AnyTask, error: CancelledError) -> None:
    """Have a task's next wait cancelled, for a cancellation that is counted already and came too late for this one."""
    uncancel = getattr(task, "uncancel", None)
    if uncancel is not None:  # CPython 3.11
        uncancel()
    task.cancel(*error.args)


def _raise(holder: Any) -> NoReturn:
    error, holder.error = holder.error, None
    raise error
