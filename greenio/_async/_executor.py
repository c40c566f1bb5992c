"""`GreenletPoolExecutor`: a `concurrent.futures.Executor` whose workers are greenlets of a loop.

A worker is a greenlet for as long as there is work, and no longer: an idle one would be a pending task at the loop's
end. What makes it one worker all the same, its thread-local values and its initializer's doings, is kept in a `_Worker`
between two greenlets.

What cannot park in a greenlet would hold the loop: what `offload` was given, and the name look-ups that a loop itself
hands to its default executor. That goes to a pool of real threads behind this one.
"""

from __future__ import annotations

import logging
from asyncio import AbstractEventLoop, CancelledError
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from concurrent.futures.thread import BrokenThreadPool
from contextvars import Context
from functools import partial
from typing import Any, NoReturn, ParamSpec, TypeVar
from weakref import ref

from .. import _original
from .._core import Green, Host, HostedThread, current_green, current_loop, host_of, is_native_work, spawn, yield_once
from .._sync import GreenIdentity, Lock

__all__ = ["GreenletPoolExecutor"]

P = ParamSpec("P")
T = TypeVar("T")

_logger = logging.getLogger("greenio")
_MAX_WORKERS = 1000
_Item = tuple["Future[Any]", Callable[[], Any]]


class _Worker:
    """What stays of a worker while there is no work."""

    __slots__ = ("identity", "is_initialized", "is_working", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.identity = GreenIdentity()
        self.is_working = False
        self.is_initialized = False


class _AtLoopsEnd:
    """What a host calls when its loop is closed: nobody waits for work any more that nobody will do.

    It does not keep the executor, which goes when nobody has it and no work is left, as one of threads does.
    """

    joined = False

    def __init__(self, executor: GreenletPoolExecutor) -> None:
        self._executor = ref(executor)

    def end(self) -> None:
        executor = self._executor()
        if executor is not None:
            executor._end_with_loop()


class GreenletPoolExecutor(ThreadPoolExecutor):
    """An executor whose workers are greenlets of an event loop: blocking work that is submitted parks there.

    It is used as a `ThreadPoolExecutor` is, with `loop.run_in_executor` and `loop.set_default_executor` too, and takes
    work from any thread. In a coroutine or a callback of its own loop do not wait for it (`future.result()`), but
    `await asyncio.wrap_future(future)`. Work that is under way when the loop comes to its end is cancelled.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        loop: AbstractEventLoop | None = None,
    ) -> None:
        """Make an executor. It does nothing before work is submitted.

        Args:
            max_workers: How many greenlets work at a time; None for 1000.
            thread_name_prefix: How the tasks of the workers are called, with a number from 0 on behind it.
            initializer: What each worker calls first.
            initargs: Its arguments.
            loop: The event loop; None for the one that runs here, or runs where work is submitted first.
        """
        super().__init__(_MAX_WORKERS if max_workers is None else max_workers, thread_name_prefix, None, ())
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._limit = _MAX_WORKERS if max_workers is None else max_workers
        self._loop = loop if loop is not None else current_loop()
        self._host: Host | None = None
        self._name = thread_name_prefix or "GreenletPoolExecutor"
        self._initialize = partial(initializer, *initargs) if initializer is not None else None
        self._lock = _original.RLock()  # never held at a park; submit() may be interrupted by a signal handler
        self._items: deque[_Item] = deque()
        self._idle: list[_Worker] = []
        self._made = 0
        self._working = 0
        self._starting = False
        self._is_shut_down = False
        self._refusal = ""
        self._ended = Lock()  # held while anybody works or anything is to be done
        self._native: ThreadPoolExecutor | None = None

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have a function called in a greenlet of the loop, from any thread. Never parks.

        Args:
            fn: The function. It runs from a later turn of the loop on, without the caller's context.
            *args: Its positional arguments.
            **kwargs: Its keyword arguments.

        Returns:
            The future of its result.

        Raises:
            RuntimeError: The executor is shut down, its loop is closed, or there is no loop.
        """
        with self._lock:
            loop = self._usable_loop()
            if is_native_work(fn):
                if self._native is None:
                    self._native = ThreadPoolExecutor(thread_name_prefix=f"{self._name}-native")
                return self._native.submit(fn, *args, **kwargs)
            future: Future[T] = Future()
            self._items.append((future, partial(fn, *args, **kwargs)))
            self._ended.acquire(False)
            if not self._starting and self._working < self._limit:
                self._starting = True
                loop.call_soon_threadsafe(self._start, context=Context())
        return future

    def _usable_loop(self) -> AbstractEventLoop:
        if self._loop is not None and self._loop.is_closed():
            raise RuntimeError("the event loop of this executor is closed")
        if self._refusal:
            raise BrokenThreadPool(self._refusal)
        if self._is_shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if self._loop is None:
            self._loop = current_loop()
        if self._loop is None:
            raise RuntimeError(
                "GreenletPoolExecutor has no event loop yet: pass one (`loop=`), or submit first from its own thread"
            )
        return self._loop

    def _start(self) -> None:
        """Start as many workers as there is work for. In a callback of the loop."""
        with self._lock:
            self._starting = False
            count = min(len(self._items), self._limit - self._working)
            self._working += count
        assert self._loop is not None
        self._host = host_of(self._loop)
        self._host.threads[ref(self, partial(_forget, self._host.threads, self._idle))] = _AtLoopsEnd(self)
        for _ in range(count):
            worker = self._idle.pop() if self._idle else self._new_worker()
            worker.is_working = True
            task = Context().run(spawn, self._work, worker)
            if not task.done():
                task.set_name(f"{self._name}_{worker.number}")
                task.add_done_callback(partial(self._end_unbegun, worker))

    def _new_worker(self) -> _Worker:
        self._made += 1
        return _Worker(self._made - 1)

    def _end_unbegun(self, worker: _Worker, _: object) -> None:
        """Do the bookkeeping for a worker whose task was cancelled before it began."""
        if worker.is_working:
            self._drop_items()
            self._end_work(worker)

    def _work(self, worker: _Worker) -> None:
        """Do what there is to do. In a green."""
        green = current_green()
        assert green is not None
        green.identity = worker.identity
        try:
            if self._begin(worker):
                self._work_off(green)
        finally:
            if self._is_shut_down or self._refusal:
                worker.identity.end()
            green.identity = None
            self._end_work(worker)

    def _begin(self, worker: _Worker) -> bool:
        if not worker.is_initialized and self._initialize is not None:
            try:
                self._initialize()
            except BaseException:
                _logger.critical("Exception in initializer:", exc_info=True)
                self._break()
                return False
        worker.is_initialized = True
        return True

    def _break(self) -> None:
        with self._lock:
            self._refusal = "A thread initializer failed, the thread pool is not usable anymore"
            items, self._items = self._items, deque()
        for future, _ in items:
            if not future.done():
                future.set_exception(BrokenThreadPool(self._refusal))

    def _work_off(self, green: Green) -> None:
        parks = -1
        while True:
            try:
                future, call = self._items.popleft()
            except IndexError:
                return
            if not future.set_running_or_notify_cancel():
                continue
            try:
                if green.parks == parks:
                    yield_once(green)  # the work before this never parked, and there may be no end of such
                parks = green.parks
                result = call()
            except BaseException as error:
                _settle(future.set_exception, error)
                if isinstance(error, CancelledError) and not _runs(self._loop):
                    self._drop_items()
            else:
                _settle(future.set_result, result)
                del result
            del future, call

    def _end_work(self, worker: _Worker) -> None:
        with self._lock:
            worker.is_working = False
            self._working -= 1
            if not self._refusal and not self._is_shut_down:
                self._idle.append(worker)
            if self._items and not self._starting and _runs(self._loop):
                self._starting = True
                assert self._loop is not None
                self._loop.call_soon_threadsafe(self._start, context=Context())
            if not self._items and not self._working and self._ended.locked():
                self._ended.release()

    def _drop_items(self) -> None:
        """Cancel what nobody will do any more."""
        while self._items:
            self._items.popleft()[0].cancel()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work. Parks in green code until what was taken is done; elsewhere blocks the thread.

        Args:
            wait: Whether to wait for it.
            cancel_futures: Whether to cancel what has not begun.

        Raises:
            RuntimeError: Native code of the loop's own thread would wait for greenlets that cannot go on meanwhile.
        """
        with self._lock:
            self._is_shut_down = True
            if cancel_futures:
                self._drop_items()
            if not self._items and not self._working and self._ended.locked():
                self._ended.release()
            native = self._native
        if self._loop is None or self._loop.is_closed():
            self._drop_items()
        elif wait and self._ended.locked():
            if current_green() is None and current_loop() is self._loop:
                _refuse_to_wait()
            self._ended.acquire()
            self._ended.release()
        if native is not None:
            native.shutdown(wait, cancel_futures=cancel_futures)
        _let_go(self._idle)
        if self._host is not None:
            self._host.threads.pop(ref(self), None)

    def _end_with_loop(self) -> None:
        self._is_shut_down = True
        self._drop_items()
        _let_go(self._idle)

    def __repr__(self) -> str:
        state = "shut down" if self._is_shut_down else f"{self._working} working, {len(self._items)} waiting"
        return f"<{type(self).__name__} [{state}] max_workers={self._limit}>"


def _forget(threads: dict[Any, HostedThread], idle: list[_Worker], executor: ref[GreenletPoolExecutor]) -> None:
    """Let go of what was kept for an executor that is no more."""
    threads.pop(executor, None)
    _let_go(idle)


def _let_go(idle: list[_Worker]) -> None:
    while idle:
        idle.pop().identity.end()


def _settle(setter: Callable[[Any], None], outcome: Any) -> None:
    """Give a future its outcome, even if the worker is cancelled where it takes the future's lock."""
    while True:
        try:
            return setter(outcome)
        except CancelledError:
            continue
        except InvalidStateError:
            return None


def _refuse_to_wait() -> NoReturn:
    raise RuntimeError(
        "shutdown() would wait in the loop's own thread for greenlets of this loop, which cannot go on meanwhile; "
        "write `await to_greenlet(executor.shutdown)`, or shutdown(wait=False)"
    )


def _runs(loop: AbstractEventLoop | None) -> bool:
    return loop is not None and loop.is_running()
