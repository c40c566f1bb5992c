"""What a signal handler raises, brought to the code that the handler was to interrupt.

A native handler interrupts whatever its thread waits in, and what it raises comes out of that call. While greens are
parked, the thread waits in their loop; what is raised there ends the loop, on asyncio, or is only logged, on uvloop. So
it is handed to the green that is parked, if there is but one. Were there several, nobody could tell for whom it is,
unless one of them is the program itself, of which the thread is the main one: handlers interrupt that, natively too.
"""

from __future__ import annotations

from asyncio import all_tasks
from contextvars import Context
from types import FrameType
from typing import NoReturn

from ._asyncio import AnyTask
from ._call import worker
from ._green import Green, current_green, greens, resume, thread_state
from ._host import hosts
from ._look import frames_of

__all__ = ["frame_of_parked", "hand_to_loop", "hand_to_parked", "is_between_calls"]


def is_between_calls(green: Green, frame: FrameType | None) -> bool:
    """Tell whether the green that has the thread is in no function that could park, or be given an exception.

    Its call has ended, or is about to, or has not begun.

    Args:
        green: The green.
        frame: Where a signal has interrupted it.
    """
    if green.host is None or (green.call is not None and green.call.ended):
        return True
    for _ in range(_NEAR):
        if frame is None:
            return False
        if frame.f_code is worker.__code__:
            return frame.f_locals.get("fn") is None
        frame = frame.f_back
    return False


_NEAR = 5
"""So many frames `worker` has above it at most, itself included, when no function runs.

No more are looked at: signals may come in a row so fast that handlers interrupt each other, to any depth.
"""


def hand_to_loop(green: Green, error: BaseException) -> bool:
    """Have an exception raised by the loop that runs in a green's thread; False if there is none. Never parks."""
    for host in hosts():
        if host.thread is green.thread and host.loop.is_running():
            host.call_soon_threadsafe(_raise, error)
            return True
    return False


def _raise(error: BaseException) -> NoReturn:
    raise error


def hand_to_parked(error: BaseException, *, if_alone: bool = False) -> bool:
    """Have an exception raised where the only call of this thread is parked. From a signal handler. Never parks.

    Args:
        error: What the handler has raised.
        if_alone: Only if the call's task is the only one of its loop, or the call is the program.

    Returns:
        False if it is the caller who has to raise it: there is no such call.
    """
    green = _interrupted(if_alone=if_alone)
    if green is None:
        return False
    try:
        green.host.call_soon_threadsafe(_interrupt, green, green.task, error)
    except RuntimeError:  # the loop was closed over it
        return False
    return True


def frame_of_parked() -> FrameType | None:
    """Look up the frame in which the only call of this thread is parked, if there is such a call. Never parks."""
    green = _interrupted()
    frames = [] if green is None else frames_of(green)
    return next((each for each in frames if not str(each.f_globals.get("__name__")).startswith("greenio.")), None)


def _interrupted(*, if_alone: bool = False) -> Green | None:
    """Find the green that a signal interrupts.

    Returns:
        None if green code has the thread, no green is parked, or several are, or the one that is awaits in `await_`,
        where its task stands for it.
    """
    current, thread = current_green(), thread_state()
    # A green at rest has no host; the class is another's in a forked child.
    hosted = [green for green in greens() if green.thread is thread and green.host is not None and not green.dead]
    calls = [green for green in hosted if green.host.loop.is_running()]
    programs = [green for green in calls if green.identity is not None and green.identity.hears_signals]
    if current is not None and (not programs or current in programs):
        return None
    calls = programs or calls
    if len(calls) != 1 or not _can_take(calls[0]):
        return None
    if if_alone and not programs and all_tasks(calls[0].host.loop) != {calls[0].task}:
        return None
    return calls[0]


def _can_take(green: Green) -> bool:
    # One that is entered, and has not come back for the first time, has no call yet. It will by the next turn.
    return green.__class__ is Green and (green.call is None or not green.call.relaying)


def _interrupt(green: Green, task: AnyTask, error: BaseException) -> None:
    if green.host is None or green.task is not task or green.call is None or not _can_take(green):
        raise error  # its call has ended meanwhile: the loop's exception after all
    if green.waiting:
        green.waiting = False
        resume(green, error)
    else:  # a waker has claimed it, and resumes it in this turn of the loop or in the next
        green.host.loop.call_soon(_interrupt, green, task, error, context=Context())
