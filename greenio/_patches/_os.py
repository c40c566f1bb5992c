"""The group "os": what waits for descriptors that are no sockets, and for children."""

from __future__ import annotations

import io

from . import _children, _descriptors, _fifos, _pipe_files, _standard_streams
from ._close import CLOSE
from ._table import Group

__all__ = ["GROUP"]


def _do(_: object) -> None:
    _fifos.do()
    _standard_streams.adopt_streams()


def _undo() -> None:
    _fifos.undo()
    _standard_streams.release_streams()


GROUP = Group(
    "os",
    (
        *_descriptors.PATCHES,
        *_fifos.PATCHES,
        *_pipe_files.PATCHES,
        *_standard_streams.PATCHES,
        *_children.PATCHES,
        *CLOSE,
    ),
    undo=_undo,
    do=_do,
    hidden={"io.FileIO": (io.FileIO, _pipe_files.PipeFile)},
    is_out_of_reach=_pipe_files.is_native_pipe,
)
