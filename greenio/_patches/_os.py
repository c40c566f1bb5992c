"""The group "os": what waits for descriptors that are no sockets, and for children."""

from __future__ import annotations

from . import _descriptors, _fifos, _pipe_files, _standard_streams
from ._standard_streams import adopt_streams, release_streams
from ._table import Group

__all__ = ["GROUP"]

GROUP = Group(
    "os",
    (*_descriptors.PATCHES, *_fifos.PATCHES, *_pipe_files.PATCHES, *_standard_streams.PATCHES),
    undo=release_streams,
    do=adopt_streams,
)
