"""What greenio takes out of a traceback: its own frames, so that an error reads as if its user's functions had met."""

from __future__ import annotations

import sys

__all__ = ["trim"]


def trim(error: BaseException) -> None:
    """Take the frames of this package off the top of a traceback; for an `except` block, before its bare `raise`.

    A bare `raise` adds no entry for its own frame, so what remains is the user's.
    """
    entry = error.__traceback__
    while entry is not None and entry.tb_frame.f_globals.get("__package__") == __package__:
        entry = entry.tb_next
    error.__traceback__ = entry
    _reraise_with_its_own(error)


if sys.version_info >= (3, 11):

    def _reraise_with_its_own(error: BaseException) -> None:
        """A bare `raise` takes the traceback that the error has by then."""

else:
    # On CPython 3.10 it takes that which the `except` block had found, from the thread's state; only C gets there.
    try:
        from ctypes import py_object, pythonapi
    except ImportError:  # an interpreter built without libffi; one own entry stays

        def _reraise_with_its_own(error: BaseException) -> None:
            pass

    else:
        _own = pythonapi["Py_IncRef"]
        _own.argtypes = [py_object]
        _own.restype = None
        _set_handled = pythonapi["PyErr_SetExcInfo"]
        _set_handled.argtypes = [py_object, py_object, py_object]
        _set_handled.restype = None

        def _reraise_with_its_own(error: BaseException) -> None:
            """Put the error's traceback in the place of the one that the `except` block had found."""
            handled = (type(error), error, error.__traceback__)
            for each in handled:
                _own(each)  # the call keeps what it is given
            _set_handled(*handled)
