"""`sys.stdin`, `sys.stdout` and `sys.stderr`, which were opened before anything is patched; and `input()`.

`getpass.getpass` makes a file of its own for the terminal, which is given the same methods while it reads a line.

Their layers are native. But the C code calls the layer below by its methods, as Python code would, and an object may
have a method of its own. So the raw file of each gets those of `_pipe_files` that park in green code, and the buffered
one those that queue, unless it is a regular file; `undo` takes them off.
"""

from __future__ import annotations

import builtins
import getpass
import io
import sys
from contextlib import suppress
from functools import partial
from typing import Any

from .._core import forget
from ._attempts import is_regular
from ._buffered_files import READER_METHODS, WRITER_METHODS, adopt_buffered, settle
from ._descriptors import write
from ._pipe_files import RAW_METHODS, is_native_pipe
from ._socket_state import green_caller
from ._table import like, patches
from ._text_files import STREAM_METHODS

__all__ = ["PATCHES", "adopt_streams", "release_streams"]

_native_input = builtins.input

_LAYERS: dict[type, dict[str, Any]] = {
    io.FileIO: RAW_METHODS,
    io.BufferedReader: READER_METHODS,
    io.BufferedWriter: WRITER_METHODS,
    io.TextIOWrapper: STREAM_METHODS,
}

_adopted: list[tuple[Any, str]] = []


def _layers_of(stream: Any) -> list[Any]:
    """List the layers of a standard stream that is what the interpreter makes, and no regular file: those that wait."""
    try:
        buffered = stream.buffer
        raw = getattr(buffered, "raw", buffered)
        if type(raw) is not io.FileIO or type(buffered) not in _LAYERS or is_regular(raw.fileno()):
            return []
    except (AttributeError, OSError, ValueError):
        return []  # somebody else's, or closed
    if buffered is raw:
        return [raw]
    return [raw, buffered, stream] if type(stream) is io.TextIOWrapper else [raw, buffered]


def adopt_streams() -> None:
    """Give the standard streams methods that park in green code. Never parks."""
    for stream in (sys.stdin, sys.stdout, sys.stderr, sys.__stdin__, sys.__stdout__, sys.__stderr__):
        for layer in _layers_of(stream):
            _adopt(layer)


def _adopt(layer: Any) -> None:
    methods = _LAYERS[type(layer)]
    if not vars(layer).keys().isdisjoint(methods):
        return  # adopted already, or somebody else has done something of the kind
    if isinstance(layer, io.BufferedIOBase):
        adopt_buffered(layer)
    for name, method in methods.items():
        setattr(layer, name, partial(method, layer))
        _adopted.append((layer, name))


def release_streams() -> None:
    """Take those methods off again. Never parks."""
    for layer in {id(layer): layer for layer, _ in _adopted if type(layer) is io.BufferedReader}.values():
        settle(layer)
    while _adopted:
        layer, name = _adopted.pop()
        vars(layer).pop(name, None)


@like(_native_input)
def input(prompt: Any = "", /) -> str:
    if green_caller() is None or not _at_terminal():
        return _native_input(prompt)  # which reads by `sys.stdin.readline`, and that parks
    sys.audit("builtins.input", prompt)
    with suppress(Exception):
        sys.stderr.flush()
    with suppress(Exception):
        sys.stdout.flush()
    _show(str(prompt))
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    line = line.removesuffix("\n")
    sys.audit("builtins.input/result", line)
    return line


def _at_terminal() -> bool:
    """Tell whether the native call would have the terminal's line read in C, by readline if that is loaded."""
    try:
        streams = (sys.stdin, sys.stdout)
        return sys.stderr is not None and all(
            stream.fileno() == fd and stream.isatty() for fd, stream in enumerate(streams)
        )
    except (AttributeError, OSError, ValueError):
        return False


def _show(prompt: str) -> None:
    """Write a prompt where the native call writes it."""
    octets = prompt.encode(sys.stdout.encoding, sys.stdout.errors or "strict")
    write(1 if "readline" in sys.modules else 2, octets)


_native_raw_input = getattr(getpass, "_raw_input", None)


@like(_native_raw_input)
def _raw_input(prompt: Any = "", stream: Any = None, input: Any = None, **options: Any) -> Any:
    raw = getattr(input, "buffer", None)
    if green_caller() is None or type(raw) is not io.FileIO or not is_native_pipe(raw):
        return _native_raw_input(prompt, stream, input, **options)  # type: ignore[misc]  # it is patched where there is one
    vars(raw).update({name: partial(method, raw) for name, method in RAW_METHODS.items()})
    try:
        return _native_raw_input(prompt, stream, input, **options)  # type: ignore[misc]
    finally:
        for name in RAW_METHODS:
            vars(raw).pop(name, None)
        with suppress(OSError, ValueError):
            forget(raw.fileno())  # it is about to be closed natively


PATCHES = (*patches(builtins, [input]), *patches(getpass, [_raw_input]))
