"""`threading.local`."""

from __future__ import annotations

import _thread
import threading

from .._sync import local
from ._table import Group, Patch

__all__ = ["GROUP"]

GROUP = Group("local", (Patch(_thread, "_local", local), Patch(threading, "local", local)))
