"""Stacks: of threads, parked greens and suspended coroutines, without the frames of greenio itself."""

from __future__ import annotations

import linecache
import sys
from asyncio import Task
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from inspect import CO_COROUTINE
from types import CoroutineType, FrameType, GeneratorType
from typing import Any

from .._core import Green, frames_of, function_of, is_driving

__all__ = ["Frame", "caller_in_library", "stack_of_green", "stack_of_task", "stack_of_thread"]

_OWN = "greenio"
_LOOP = frozenset({("asyncio.events", "_run"), ("asyncio.base_events", "_run_once"), ("asyncio.runners", "run")})
"""asyncio's functions that call what user code has given them; what is outside of them is the loop's own."""

_LIBRARY = ("concurrent.futures", "multiprocessing", "queue", "selectors", "socket", "ssl", "subprocess", "threading")
"""Packages that wait on behalf of those who call them."""


@dataclass(frozen=True)
class Frame:
    """One line of a stack.

    Attributes:
        file: The file.
        line: The line that runs, or is to go on.
        function: The function, with its class.
    """

    file: str
    line: int
    function: str

    @property
    def source(self) -> str:
        """The text of the line, if it can be had."""
        return linecache.getline(self.file, self.line).strip()

    def __str__(self) -> str:
        return f'File "{self.file}", line {self.line}, in {self.function}'


def module_of(frame: FrameType) -> str:
    """Name the module of a frame."""
    return str(frame.f_globals.get("__name__", ""))


def _is_in(module: str, packages: Iterable[str]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def _shown(frames: Iterable[FrameType]) -> tuple[Frame, ...]:
    """Turn frames, innermost first, into lines, outermost first as in a traceback."""
    lines = [
        Frame(frame.f_code.co_filename, frame.f_lineno or 0, function_of(frame))
        for frame in frames
        if not _is_in(module_of(frame), (_OWN,))
    ]
    return tuple(reversed(lines))


def _frames_below_loop(frame: FrameType | None) -> list[FrameType]:
    """List the frames of a thread up to those of the loop that runs in it."""
    found: list[FrameType] = []
    while frame is not None:
        if (module_of(frame), frame.f_code.co_name) in _LOOP:
            return found
        found.append(frame)
        frame = frame.f_back
    # A green, or a loop that is written in C, which steps the outermost coroutine.
    if found and not _is_in(module_of(found[-1]), (_OWN,)):
        coroutines = [number for number, each in enumerate(found, 1) if each.f_code.co_flags & CO_COROUTINE]
        return found[: coroutines[-1]] if coroutines else found
    return found


def frames_of_thread(thread_id: int | None) -> list[FrameType]:
    """List the frames of a thread, innermost first, up to the loop's."""
    return [] if thread_id is None else _frames_below_loop(sys._current_frames().get(thread_id))


def stack_of_thread(thread_id: int | None) -> tuple[Frame, ...]:
    """Show what a thread does at this moment, outermost first; in green code that is the green alone."""
    return _shown(frames_of_thread(thread_id))


_SELECTS = frozenset({"selectors", "greenio._patches._blocking", "greenio._patches._selectors"})


def is_idle(thread_id: int | None) -> bool:
    """Tell whether a loop of asyncio waits in its selector in this thread; of loops written in C this is not known."""
    frame = None if thread_id is None else sys._current_frames().get(thread_id)
    while frame is not None and module_of(frame) in _SELECTS:
        frame = frame.f_back
    return frame is not None and (module_of(frame), frame.f_code.co_name) == ("asyncio.base_events", "_run_once")


def frames_of_green(green: Green) -> list[FrameType]:
    """List the frames of a green, innermost first, whether it is parked or has its thread."""
    if green.waiting or green.thread.active is not green:
        return frames_of(green)
    return frames_of_thread(green.host.thread_id)


def stack_of_green(green: Green) -> tuple[Frame, ...]:
    """Show where a green is, outermost first, on into the coroutines that it drives."""
    return _shown(_with_coroutines(frames_of_green(green)))


def _with_coroutines(frames: Iterable[FrameType]) -> Iterator[FrameType]:
    """Add the frames of coroutines that are suspended inside a green, which no frame of it leads to."""
    for frame in frames:
        if is_driving(frame):
            step = frame.f_locals.get("steps")
            if not _first_of(step, "cr_running", "gi_running"):  # else its frames are among those of the green
                yield from _suspended_frames(step)
        yield frame


def caller_in_library(green: Green) -> str | None:
    """Name the function of the standard library that green code called and that waits, as in "queue.Queue.get"."""
    found = None
    for frame in frames_of_green(green):
        module = module_of(frame)
        if _is_in(module, (_OWN,)):
            continue
        if not _is_in(module, _LIBRARY):
            break
        found = f"{module.partition('._')[0]}.{function_of(frame)}"
    return found


def stack_of_task(task: Task[Any]) -> tuple[Frame, ...]:
    """Show where the coroutine of a task is suspended, outermost first: what awaits what, as far as Python tells."""
    return _shown(_suspended_frames(task.get_coro()))


def _suspended_frames(step: Any) -> list[FrameType]:
    """List the frames of a coroutine and of what it awaits, innermost first."""
    frames: list[FrameType] = []
    while step is not None:
        frame = _first_of(step, "cr_frame", "gi_frame")
        if isinstance(frame, FrameType):
            frames.append(frame)
        step = _awaited_by(step)
    frames.reverse()
    return frames


def _awaited_by(step: Any) -> Any:
    """Look up what a coroutine or generator awaits, unless it runs.

    While it runs, and be it parked in a call, CPython 3.11 and 3.12 may take a cache of its code for the instruction
    that awaits, and return what is no object at all (gh-111354 is how 3.13 does without). So each answer is one
    expression, amid which threads do not switch.
    """
    if step.__class__ is CoroutineType:
        return None if step.cr_running else step.cr_await
    if step.__class__ is GeneratorType:
        return None if step.gi_running else step.gi_yieldfrom
    return _first_of(step, "cr_await", "gi_yieldfrom")


def _first_of(step: Any, *names: str) -> Any:
    return next((value for name in names if (value := getattr(step, name, None)) is not None), None)
