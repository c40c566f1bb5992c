"""Native calls that nobody can wait for otherwise: each is made in a thread of its own, while its green is parked.

The executor of the loop has too few threads for calls that take long, and would hold up the end of the loop.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

from .. import _original
from .._core import Green
from .._sync import Lock

__all__ = ["call_in_thread"]


def call_in_thread(green: Green, fn: Callable[..., Any], *args: Any, cancellable: bool = False) -> Any:
    """Call a function in a thread of its own, and park until it has returned.

    What a signal handler raises comes after that, as it does natively, where no handler runs during the call.

    Args:
        green: The caller's green.
        fn: The function.
        args: Its arguments.
        cancellable: Whether a cancellation leaves the thread to itself; if not, it is kept for the next park.
    """
    done = Lock()
    done.acquire()
    outcome: list[tuple[Any, BaseException | None]] = []
    context = copy_context()

    def call() -> None:
        try:
            outcome.append((context.run(fn, *args), None))
        except BaseException as error:
            outcome.append((None, error))
        finally:
            done.release()

    _original.start_new_thread(call, ())
    interruption = _wait(green, done, cancellable)
    value, error = outcome.pop()
    error = interruption or error
    if error is None:
        return value
    try:
        raise error
    finally:
        del error, interruption


def _wait(green: Green, done: Lock, cancellable: bool) -> BaseException | None:
    """Park until a thread is done; return what a handler has raised meanwhile."""
    cancellation: CancelledError | None = None
    interruption: BaseException | None = None
    while True:
        try:
            done.acquire()
            green.cancellation = green.cancellation or cancellation
            return interruption
        except CancelledError as error:
            if cancellable:
                raise
            cancellation = cancellation or error
        except BaseException as error:
            if green.host.ended or green.host.loop.is_closed():
                raise  # nobody could wake it
            interruption = interruption or error
