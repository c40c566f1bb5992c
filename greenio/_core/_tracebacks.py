"""What greenio takes out of a traceback: its own frames, so that an error reads as if its user's functions had met."""

from __future__ import annotations

import sys

__all__ = ["trim"]


def trim(error: BaseException, *others: str) -> None:
    """Take the frames of this package off the top of a traceback; for an `except` block, before its bare `raise`.

    A bare `raise` adds no entry for its own frame, so what remains is the user's.

    Args:
        error: The exception.
        *others: Packages whose frames are taken off as well.
    """
    entry = error.__traceback__
    while entry is not None and entry.tb_frame.f_globals.get("__package__") in (__package__, *others):
        entry = entry.tb_next
    error.__traceback__ = entry
    if sys.version_info < (3, 11):
        _reraise_with_its_own(error)


def _reraise_with_its_own(error: BaseException) -> None:
    """Have a bare `raise` take the traceback that the error has by then, as it does from CPython 3.11 on.

    Before, it takes that which the `except` block had found, from the thread's state; only C gets there. An interpreter
    may have been built without ctypes: then one own entry stays.
    """
    try:
        import ctypes  # noqa: PLC0415 - takes a millisecond, and only errors need it

        own, set_handled = ctypes.pythonapi.Py_IncRef, ctypes.pythonapi.PyErr_SetExcInfo
    except (ImportError, AttributeError):
        return
    handled = [ctypes.py_object(each) for each in (type(error), error, error.__traceback__)]
    for each in handled:
        own(each)  # the call keeps what it is given
    set_handled(*handled)
