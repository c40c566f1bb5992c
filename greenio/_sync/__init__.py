"""Locks, queues and thread-local data that native threads and the greens of any loop share."""

from ._local import LOCAL_METHODS, GreenIdentity, OldLocal, be_the_thread, current_identity, local
from ._locks import Lock, PlainLock, RLock
from ._old import OldLock, OldSimpleQueue, PassableRLock, holder_in_this_thread
from ._owners import End, owner_of, record_owners, runner_of
from ._queue import SimpleQueue
from ._rows import Row, Rows, is_passed, line_up, take_in_turn
from ._waiting import NOTHING, Shared

__all__ = [
    "LOCAL_METHODS",
    "NOTHING",
    "End",
    "GreenIdentity",
    "Lock",
    "OldLocal",
    "OldLock",
    "OldSimpleQueue",
    "PassableRLock",
    "PlainLock",
    "RLock",
    "Row",
    "Rows",
    "Shared",
    "SimpleQueue",
    "be_the_thread",
    "current_identity",
    "holder_in_this_thread",
    "is_passed",
    "line_up",
    "local",
    "owner_of",
    "record_owners",
    "runner_of",
    "take_in_turn",
]
