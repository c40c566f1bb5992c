"""What native code does that holds the loop: how a call that would block is found, told of, or refused.

Nothing of this is in place unless `on_blocking` asks for it: then a guard is set over each green function that
`_would_block` names, and taken off again. A guard goes by what is cheapest first:

1. Does a loop run in this thread (whoever runs one has set the asynchronous-generator hooks), is the caller native?
2. May the call block, by its arguments?
3. Who calls? What asyncio does for itself does not count, nor what is allowed.
4. Would it block now? The kernel is asked, or a lock is looked at; nothing is read, sent or taken.

The place that is told is where the code has to be changed: the innermost coroutine below the call, since that is where
`await to_greenlet(...)` would stand, or in a callback the line that calls.
"""

from __future__ import annotations

import sys
import warnings
from asyncio import current_task
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final

from .._core import current_green, function_of, get_running_loop
from ._table import like

__all__ = ["BlockingCallError", "BlockingCallWarning", "Policy", "Watched", "guard"]


class BlockingCallWarning(RuntimeWarning):
    """A call held the loop's thread."""


class BlockingCallError(RuntimeError):
    """A call would have held the loop's thread, and was not made.

    Attributes:
        call: The full name of what was called, as in "time.sleep".
        task: The name of the task, or None in a callback.
        filename: The file of the line that has to be changed.
        lineno: That line.
    """

    def __init__(self, message: str, call: str, task: str | None, filename: str, lineno: int) -> None:
        super().__init__(message)
        self.call = call
        self.task = task
        self.filename = filename
        self.lineno = lineno

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0], self.call, self.task, self.filename, self.lineno)


def _always(*args: Any, **kwargs: Any) -> bool:
    return True


@dataclass(frozen=True)
class Watched:
    """A row of the table: one patched call that may block.

    Attributes:
        target: The full name of what is patched; the row counts only while it is.
        may: Tells by the arguments whether the call may block.
        does: Looks whether it would, now.
        instead: What to write in its place.
        owner: The class that the guard is set on, if it is not the one that is patched.
        name: The name of the method there.
        call: What the call is called in the message, if not `target`.
    """

    target: str
    may: Callable[..., bool]
    does: Callable[..., bool] = _always
    instead: str = "call it in a greenlet: `await to_greenlet(fn, ...)`"
    owner: type | None = None
    name: str = ""
    call: str = ""


_INFRASTRUCTURE: Final = (
    "concurrent.futures",
    "greenio",
    "multiprocessing",
    "queue",
    "selectors",
    "socket",
    "ssl",
    "subprocess",
    "threading",
)
"""Packages that wait on behalf of whoever called them: the outermost of their frames is what was called."""

_LOCKED: Final = "logging"
"""A module whose locks other threads hold while they write a record. What handlers wait for stands in others."""

_OWN_WAITS: Final = ("_frozen_importlib", "_frozen_importlib_external", "asyncio", "importlib", "uvloop")
"""Packages whose own waits are short, or are the loop's business."""

_SHORT: Final = frozenset(
    {
        ("concurrent.futures.process", "submit"),
        ("concurrent.futures.thread", "submit"),
        ("threading", "start"),
    }
)
"""Functions that wait for a moment by design: until a thread has begun."""

_RUNS_CALLBACKS: Final = frozenset({("asyncio.events", "_run"), ("asyncio.runners", "run")})
"""asyncio's functions that have no part in what is called right below them: a callback written in C has no frame."""

_FUTURES: Final = "concurrent.futures."
_AWAIT_FUTURES: Final = "await it by `asyncio.wrap_future`, or wait in a greenlet: `await to_greenlet(fn, ...)`"

_COROUTINE: Final = 0x80 | 0x100 | 0x200
"""CO_COROUTINE, CO_ITERABLE_COROUTINE, CO_ASYNC_GENERATOR."""


@dataclass(frozen=True)
class _Place:
    """Where a call comes from.

    Attributes:
        called: The name of the outermost function of the standard library on the way, or None.
        frame: That of the line to be changed.
        chain: Every name on the way that may be allowed, as "module.function".
    """

    called: str | None
    frame: FrameType
    chain: tuple[str, ...]


def _name_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _is_in(module: str, packages: Iterable[str]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def _caller(frame: FrameType | None) -> tuple[str | None, FrameType] | None:
    """Walk out of the standard library; None for what it does on its own account, or the loop's."""
    called = None
    while frame is not None:
        module, function = _name_of(frame), frame.f_code.co_name
        if (module, function) in _SHORT or module == _LOCKED:
            return None
        if not _is_in(module, _INFRASTRUCTURE):
            own = _is_in(module, _OWN_WAITS) and (module, function) not in _RUNS_CALLBACKS
            return None if own else (called, frame)
        if not _is_in(module, ("greenio",)):
            called = f"{module.partition('._')[0]}.{function_of(frame)}"
        frame = frame.f_back
    return None


def _frames(frame: FrameType) -> Iterator[FrameType]:
    """List the frames from the call outwards, up to the step of the task or the callback."""
    found: FrameType | None = frame
    below = False
    while found is not None and (_name_of(found), found.f_code.co_name) not in _RUNS_CALLBACKS:
        is_coroutine = bool(found.f_code.co_flags & _COROUTINE)
        if below and not is_coroutine:
            return
        below = is_coroutine
        yield found
        found = found.f_back


def _place(frame: FrameType | None) -> _Place | None:
    caller = _caller(frame)
    if caller is None:
        return None
    called, first = caller
    frames = list(_frames(first))
    inside = [found for found in frames if found.f_code.co_flags & _COROUTINE]
    chain = tuple(f"{_name_of(found)}.{function_of(found)}" for found in frames)
    return _Place(called, inside[0] if inside else first, chain)


class Policy:
    """What is done about calls that block: warn of them, or raise; and which are allowed.

    Args:
        action: "warn" or "raise".
        allowed: Modules, and functions as "module.function", that may block, and all that they call.
    """

    def __init__(self, action: str, allowed: Iterable[str] = ()) -> None:
        self.action = action
        self.allowed = frozenset(allowed)
        self._told: set[tuple[str, int, int, str]] = set()

    def heed(self, row: Watched, args: tuple[Any, ...], kwargs: dict[str, Any], frame: FrameType) -> None:
        """Look at one call of native code in a loop's thread, before it is made."""
        loop = get_running_loop()
        if loop is None or not _holds(row.may, args, kwargs):
            return
        place = _place(frame)
        if place is None or self._allows(row, place) or not _holds(row.does, args, kwargs):
            return
        task = current_task(loop)
        self._tell(row, place, None if task is None else task.get_name())

    def _allows(self, row: Watched, place: _Place) -> bool:
        if not self.allowed:
            return False
        names = [row.target, row.call, place.called or "", *place.chain]
        return any(_covers(entry, name) for entry in self.allowed for name in names)

    def _tell(self, row: Watched, place: _Place, task: str | None) -> None:
        frame = place.frame
        filename, lineno = frame.f_code.co_filename, frame.f_lineno
        call = place.called or row.call or row.target
        key = filename, lineno, frame.f_lasti, call
        if self.action == "warn" and key in self._told:
            return
        where = f"in task {task!r}" if task is not None else "in a callback"
        instead = _AWAIT_FUTURES if call.startswith(_FUTURES) else row.instead
        function = function_of(frame)
        text = f"{call}() holds the event loop, {where}, in {function}() at {filename}:{lineno}; {instead}"
        if self.action == "raise":
            raise BlockingCallError(text, call, task, filename, lineno)
        warnings.warn_explicit(text, BlockingCallWarning, filename, lineno, _name_of(frame))
        self._told.add(key)  # not if a filter made an error of it: that one is raised each time


def _holds(condition: Callable[..., bool], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Ask a condition of the table; what it makes nothing of is left for the native call to judge."""
    try:
        return bool(condition(*args, **kwargs))
    except Exception:
        return False


def _covers(entry: str, name: str) -> bool:
    return name == entry or name.startswith(entry + ".")


_get_hooks = sys.get_asyncgen_hooks
_get_frame = sys._getframe


def guard(row: Watched, below: Any, policy: Policy) -> Any:
    """Make what stands over one green function while calls that block are looked for."""
    heed = policy.heed

    @like(below)
    def call(*args: Any, **kwargs: Any) -> Any:
        if _get_hooks()[0] is not None and current_green() is None:
            heed(row, args, kwargs, _get_frame(1))
        return below(*args, **kwargs)

    return call
