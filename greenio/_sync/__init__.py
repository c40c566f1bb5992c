"""Locks and queues that native threads and the greens of any loop wait for together."""

from ._locks import Lock, RLock
from ._queue import SimpleQueue

__all__ = ["Lock", "RLock", "SimpleQueue"]
