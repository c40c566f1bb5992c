"""Locks, queues and thread-local data that native threads and the greens of any loop share."""

from ._local import GreenIdentity, current_identity, local
from ._locks import Lock, RLock
from ._queue import SimpleQueue

__all__ = ["GreenIdentity", "Lock", "RLock", "SimpleQueue", "current_identity", "local"]
