"""Locks, queues and thread-local data that native threads and the greens of any loop share."""

from ._local import LOCAL_METHODS, GreenIdentity, OldLocal, be_the_thread, current_identity, local
from ._locks import Lock, RLock
from ._old import OldLock, PassableRLock, holder_in_this_thread
from ._owners import owner_of, record_owners
from ._queue import SimpleQueue
from ._waiting import Shared

__all__ = [
    "LOCAL_METHODS",
    "GreenIdentity",
    "Lock",
    "OldLocal",
    "OldLock",
    "PassableRLock",
    "RLock",
    "Shared",
    "SimpleQueue",
    "be_the_thread",
    "current_identity",
    "holder_in_this_thread",
    "local",
    "owner_of",
    "record_owners",
]
