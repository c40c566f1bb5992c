"""What `open` builds upon a raw file: the buffered layer and the text layer, by whichever classes are wanted."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from typing import Any

from .. import _original

__all__ = ["build", "model", "native_open", "raw_mode", "subclass"]

native_open = io.open
_native_os_open = os.open


def subclass(base: Any, *methods: dict[str, Any]) -> Any:
    """Make a subclass of a class of `io` that shows itself as that class."""

    def __repr__(self: Any) -> str:  # noqa: N807 - it becomes that method
        shown: str = base.__repr__(self)
        return shown.replace(f"<{base.__name__}", f"<{base.__module__}.{base.__name__}", 1)

    names: dict[str, Any] = {"__module__": base.__module__, "__doc__": base.__doc__, "__repr__": __repr__}
    for each in methods:
        names.update(each)
    return type(base.__name__, (base,), names)


def raw_mode(mode: str) -> str:
    """Tell the mode of the raw file below one of this mode."""
    return "".join(letter for letter in mode if letter in "rwxa+")


def model(mode: str, buffering: int, encoding: str | None, errors: str | None, newline: str | None) -> Any:
    """Open nothing in the same way, and close it: raises where an argument is wrong, and tells what the others mean."""
    null = _native_os_open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        opened = native_open(null, mode, buffering, encoding, errors, newline, closefd=False)
        opened.close()  # here: its finalizer would find the descriptor closed
        return opened
    finally:
        _original.close(null)


def build(
    raw: Any,
    model: Any,
    mode: str,
    buffering: int,
    newline: str | None,
    classes: Mapping[type, Any],
    text_file: Callable[..., Any] = io.TextIOWrapper,
) -> Any:
    """Build upon a raw file what `open` builds.

    Args:
        raw: The raw file.
        model: What `model` made.
        mode: The mode that was asked for.
        buffering: The size that was asked for.
        newline: The line ends that were asked for.
        classes: The class of the buffered layer, by the native one.
        text_file: Makes the text layer.
    """
    binary = model.buffer if isinstance(model, io.TextIOWrapper) else model
    if isinstance(binary, io.FileIO):
        return raw
    size = buffering if buffering > 1 else max(os.fstat(raw.fileno()).st_blksize, 1)
    buffered = classes[type(binary)](raw, size if size > 1 else io.DEFAULT_BUFFER_SIZE)
    if binary is model:
        return buffered
    by_line = model.line_buffering or (buffering < 0 and raw.isatty())
    text = text_file(buffered, model.encoding, model.errors, newline, by_line)
    text.mode = mode
    return text
