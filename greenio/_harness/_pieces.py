"""Pieces of a test run, each run green to its end: a test, the halves of a fixture, a finalizer.

The loop runs for as long as a piece lasts and stands still in between, as it does under pytest-asyncio. All pieces
share one context, so that a variable that a fixture sets is seen by the test and may be reset by the fixture's second
half; pytest's own context is told of the changes, and tells its own. Sync pieces are the thread itself, so that they
share its thread-local values, and have its name.

**A loop left in the middle.** Sync Playwright runs a loop in a greenlet of its own, and switches out of it between two
calls. Until it is stopped that loop counts as the running one, and its greenlet relies on that. The kernel gives green
code a thread without a loop at each call, so a piece leaves what it has found to the next.

**Alarms.** pytest-timeout raises out of a handler for SIGALRM. While the piece is parked that would come out of the
loop, which asyncio leaves in the middle and uvloop not at all. So for the time of a piece its handler is called by
another. What it raises ends the piece: where it runs if it has the thread, by a cancellation if it is parked.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from asyncio import AbstractEventLoop, CancelledError
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from contextvars import Context, ContextVar, Token, copy_context
from functools import partial
from inspect import iscoroutinefunction
from types import CodeType, FrameType, TracebackType
from typing import Any

from .. import _original, await_, get_loop, in_greenlet, to_greenlet
from .._sync import be_the_thread
from ._loops import ScopedLoop, is_running

__all__ = ["Contexts", "run_piece", "run_within"]

_IDLE = ("asyncio", "backports", "contextlib", "greenio", "pytest_asyncio", "selectors", "uvloop")
"""Packages whose frames alone lie over a loop that has nothing to do; the patched selectors are greenio's."""


class Contexts:
    """The context of all pieces, and how it and pytest's own are told of each other's changes."""

    def __init__(self) -> None:
        self.pieces = copy_context()
        self.thread = _Thread()
        self._entered = False
        self._inward: dict[ContextVar[Any], Token[Any]] = {}
        self._outward: dict[ContextVar[Any], Token[Any]] = {}

    @contextlib.contextmanager
    def shared(self) -> Iterator[Context]:
        """Have a piece see what is set now, and everybody else afterwards what the piece has set.

        A piece within a piece, which a green test has made on another loop, gets a copy.
        """
        if self._entered:
            yield copy_context()
            return
        _carry(copy_context(), self.pieces, self.pieces.run, self._inward)
        self._entered = True
        try:
            yield self.pieces
        finally:
            self._entered = False
            _carry(self.pieces, copy_context(), _call, self._outward)


class _Thread:
    """Entered by a sync piece: it is the thread itself, and finds there the loop that the piece before it has left."""

    def __init__(self) -> None:
        self._loop: AbstractEventLoop | None = None
        self._hooks: tuple[Any, Any] = (None, None)

    def __enter__(self) -> None:
        be_the_thread()
        self.show()

    def show(self) -> None:
        """Put a loop that was left on the thread again. In green code."""
        if self._loop is not None and not self._loop.is_closed():
            asyncio._set_running_loop(self._loop)
            sys.set_asyncgen_hooks(*self._hooks)

    def __exit__(self, *_: object) -> None:
        self._loop, self._hooks = asyncio._get_running_loop(), sys.get_asyncgen_hooks()
        asyncio._set_running_loop(None)
        sys.set_asyncgen_hooks(None, None)


def _call(fn: Callable[..., Any], *args: Any) -> Any:
    return fn(*args)


def _carry(
    source: Context, target: Context, run: Callable[..., Any], tokens: dict[ContextVar[Any], Token[Any]]
) -> None:
    for variable, value in source.items():
        if variable not in target or target[variable] is not value:
            tokens.setdefault(variable, run(variable.set, value))
    for variable in [each for each in tokens if each not in source]:
        with contextlib.suppress(ValueError):  # set in a context that was left since
            run(variable.reset, tokens.pop(variable))


def run_piece(
    scoped: ScopedLoop,
    contexts: Contexts,
    fn: Callable[..., Any],
    *args: Any,
    around: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext,
    green: bool = True,
    **kwargs: Any,
) -> Any:
    """Run a function green on a loop that stands still, and return what it returns.

    Called from green code of that very loop, or where a loop runs, it is a plain call.

    Args:
        scoped: The loop.
        contexts: The context of all pieces.
        fn: The function. A coroutine function is driven in the greenlet.
        *args: Its positional arguments.
        around: Makes what is entered in the loop around the call.
        green: False to await a coroutine function as any task does.
        **kwargs: Its keyword arguments.
    """
    __tracebackhide__ = True
    if not iscoroutinefunction(fn) and (is_running() or (in_greenlet() and get_loop() is scoped.loop)):
        return fn(*args, **kwargs)
    if iscoroutinefunction(fn) and in_greenlet() and get_loop() is scoped.loop:
        return await_(fn(*args, **kwargs))
    with contexts.shared() as context:
        piece = _Piece(fn, args, kwargs, context, contexts.thread, around, green)
        with _Alarm(piece), _awaiting(scoped.loop):
            piece.run(scoped)
    if in_greenlet():  # of another loop
        contexts.thread.show()
    return piece.outcome()


async def run_within(contexts: Contexts, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run a sync function green on a loop that somebody else runs, as one more piece."""
    __tracebackhide__ = True
    piece = _PieceWithin(partial(fn, *args, **kwargs), contexts.thread)
    with _Alarm(piece):
        return await piece.run()


def _is_below(frame: FrameType | None, piece: object, codes: tuple[CodeType, ...]) -> bool:
    """Tell whether a frame belongs to the own code of a piece, which methods of the piece call."""
    return any(each.f_code in codes and each.f_locals.get("self") is piece for each in _frames(frame))


class _PieceWithin:
    """A piece in a task that is not its own, and goes on after a cancellation that was meant for the piece."""

    def __init__(self, fn: Callable[[], Any], thread: _Thread) -> None:
        self._fn, self._thread = fn, thread
        self._task: asyncio.Task[Any] | None = asyncio.current_task()
        self._alarm: BaseException | None = None
        self._cancelled = False

    async def run(self) -> Any:
        __tracebackhide__ = True
        error: BaseException | None = None
        try:
            value = await to_greenlet(self._call)
        except CancelledError as cancelled:
            if self._alarm is None:
                raise
            error = cancelled
        finally:
            task, self._task = self._task, None
        if self._alarm is None:
            return value
        if self._cancelled and task is not None:
            _uncancel(task)
        raise self._alarm.with_traceback(_of_user(error)) from None

    def _call(self) -> Any:
        __tracebackhide__ = True
        with self._thread:
            return self._fn()

    def has_thread(self, frame: FrameType | None) -> bool:
        """Tell whether the frame belongs to the piece's own code."""
        return _is_below(frame, self, (_PieceWithin._call.__code__,))

    def cancel(self, error: BaseException) -> None:
        """End the piece where it is parked, with `error` as its outcome. In a signal handler."""
        self._alarm = error
        if self._task is not None:
            self._task.get_loop().call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self._task is not None:
            self._cancelled = self._task.cancel()


_uncancel: Callable[[asyncio.Task[Any]], object] = getattr(asyncio.Task, "uncancel", id)
"""From CPython 3.11 on a task counts its cancellations."""


class _Piece:
    def __init__(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: Context,
        thread: _Thread,
        around: Callable[[], AbstractContextManager[object]],
        green: bool,
    ) -> None:
        self._fn, self._args, self._kwargs = fn, args, kwargs
        self._context, self._thread, self._around, self._green = context, thread, around, green
        self._task: asyncio.Task[Any] | None = None
        self._value: Any = None
        self._error: BaseException | None = None
        self.alarm: BaseException | None = None
        """What the handler of an alarm raised while the piece did not run."""

    def run(self, scoped: ScopedLoop) -> None:
        __tracebackhide__ = True
        try:
            scoped.run(self._main(), self._context if iscoroutinefunction(self._fn) else None)
        except CancelledError:
            if self.alarm is None:
                raise
        finally:
            self._end(scoped)

    def _end(self, scoped: ScopedLoop) -> None:
        """Cancel what is left if something came out of the loop past the task, so that its `finally` blocks run."""
        task = self._task
        if task is not None and not task.done() and not scoped.loop.is_closed():
            task.cancel()
            scoped.loop.run_until_complete(asyncio.wait([task]))

    def outcome(self) -> Any:
        __tracebackhide__ = True
        error = self._error
        self._fn, self._args, self._kwargs = _call, (), {}
        if self.alarm is not None:
            raise self.alarm.with_traceback(_of_user(error)) from None
        if error is not None:
            self._error = None
            raise error
        return self._value

    async def _main(self) -> None:
        self._task = asyncio.current_task()
        with self._around():
            if not iscoroutinefunction(self._fn):
                await to_greenlet(self._context.run, self._call)
            elif self._green:
                drive: Callable[[], Any] = self._drive
                await to_greenlet(drive)
            else:
                await self._drive()

    def _call(self) -> None:
        try:
            with self._thread:
                self._value = self._fn(*self._args, **self._kwargs)
        except BaseException as error:
            self._keep(error)

    async def _drive(self) -> None:
        try:
            self._value = await self._fn(*self._args, **self._kwargs)
        except BaseException as error:
            self._keep(error)

    def _keep(self, error: BaseException) -> None:
        """Keep an outcome from asyncio, which adds frames, and lets KeyboardInterrupt and SystemExit stop the loop."""
        traceback = error.__traceback__
        assert traceback is not None
        self._error = error.with_traceback(traceback.tb_next or traceback)
        if isinstance(error, CancelledError):
            raise error

    def has_thread(self, frame: FrameType | None) -> bool:
        """Tell whether the frame belongs to the piece's own code."""
        return _is_below(frame, self, (_Piece._call.__code__, _Piece._drive.__code__))

    def cancel(self, error: BaseException) -> None:
        """End the piece where it is parked, with `error` as its outcome. In a signal handler."""
        self.alarm = error
        if self._task is not None:
            self._task.get_loop().call_soon_threadsafe(self._task.cancel)


def _of_user(error: BaseException | None) -> TracebackType | None:
    """Take the traceback of an error to its last line that is not greenio's: where the user's code waits."""
    traceback = error.__traceback__ if error is not None else None
    entry, last = traceback, traceback
    while entry is not None:
        if not str(entry.tb_frame.f_globals.get("__name__", "")).startswith("greenio."):
            last = entry
        entry = entry.tb_next
    if last is not None:
        last.tb_next = None
    return traceback


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_idle(frame: FrameType | None) -> bool:
    """Tell whether a loop that runs a piece was interrupted in its wait, and not in somebody's code."""
    for each in _frames(frame):
        package = str(each.f_globals.get("__name__", "")).partition(".")[0]
        if each.f_code is _Piece.run.__code__ or package == "anyio":  # which runs the loop for `run_within`
            return True
        if package not in _IDLE:
            return False
    return False


def _bare(handler: Any) -> Any:
    """Look up a handler of SIGALRM without what the patch puts around it."""
    return handler.__wrapped__ if type(handler).__module__.startswith("greenio.") else handler


class _Alarm:
    """Stands before the handler of SIGALRM for the time of a piece."""

    def __init__(self, piece: _Piece | _PieceWithin) -> None:
        self._piece = piece
        self._handler: Any = None
        self._before: Any = None

    def __enter__(self) -> None:
        handler = _original.getsignal(signal.SIGALRM)
        if callable(handler):
            with contextlib.suppress(ValueError):  # not the main thread
                self._before = _original.signal(signal.SIGALRM, self)
                self._handler = _bare(handler)

    def __exit__(self, *_: object) -> None:
        current: object = _original.getsignal(signal.SIGALRM)
        if self._handler is not None and current is self:
            _original.signal(signal.SIGALRM, self._before)

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        __tracebackhide__ = True
        try:
            self._handler(signum, frame)
        except BaseException as error:
            if self._piece.has_thread(frame):
                raise
            self._piece.cancel(error)
            if not _is_idle(frame):
                raise


@contextlib.contextmanager
def _awaiting(loop: AbstractEventLoop) -> Iterator[None]:
    """Have `run_until_complete` wait by `await_` where green code of the same loop calls it.

    `request.getfixturevalue("an_async_fixture")` comes to that, in a green test.
    """
    native = loop.run_until_complete

    def run_until_complete(future: Any) -> Any:
        if in_greenlet() and get_loop() is loop:
            return await_(future)
        return native(future)

    set_here = "run_until_complete" in getattr(loop, "__dict__", {})
    try:
        loop.run_until_complete = run_until_complete  # type: ignore[method-assign]
    except AttributeError:  # a loop whose object takes no attribute
        yield
        return
    try:
        yield
    finally:
        if set_here:
            loop.run_until_complete = native  # type: ignore[method-assign]
        else:
            del loop.run_until_complete
