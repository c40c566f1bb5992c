"""A kqueue behind the few methods of an epoll that the poller needs, for the BSDs and macOS."""

from __future__ import annotations

import select
import sys

from .. import _original

__all__ = ["Kqueue"]

_IN, _OUT, _HUP = 0x1, 0x4, 0x10

if sys.platform != "linux" and sys.platform != "win32":

    class Kqueue:
        """Edge-triggered readiness by kqueue, told in epoll's bits."""

        def __init__(self) -> None:
            self._kqueue = _original.kqueue()
            self._masks: dict[int, int] = {}

        @staticmethod
        def available() -> bool:
            """Tell whether this platform has kqueue."""
            return _original.kqueue is not None

        def fileno(self) -> int:
            """Tell the descriptor, which is itself pollable."""
            return self._kqueue.fileno()

        def close(self) -> None:
            """Close the kqueue."""
            self._kqueue.close()

        def register(self, fd: int, mask: int) -> None:
            """Begin to watch a descriptor."""
            self._change(fd, 0, mask)

        def modify(self, fd: int, mask: int) -> None:
            """Watch for other events; what is ready now is told again."""
            self._change(fd, self._masks.get(fd, 0), mask)

        def unregister(self, fd: int) -> None:
            """End to watch a descriptor."""
            self._change(fd, self._masks.get(fd, 0), 0)

        def _change(self, fd: int, before: int, mask: int) -> None:
            changes = []
            for bit, kind in ((_IN, select.KQ_FILTER_READ), (_OUT, select.KQ_FILTER_WRITE)):
                if before & bit:
                    changes.append(_original.kevent(fd, kind, select.KQ_EV_DELETE))
                if mask & bit:
                    changes.append(_original.kevent(fd, kind, select.KQ_EV_ADD | select.KQ_EV_CLEAR))
            self._masks.pop(fd, None)
            self._kqueue.control(changes, 0)
            if mask:
                self._masks[fd] = mask

        def poll(self, timeout: float, limit: int) -> list[tuple[int, int]]:
            """Tell the edges that came since the last call."""
            return [
                (
                    event.ident,
                    (_OUT if event.filter == select.KQ_FILTER_WRITE else _IN)
                    | (_HUP if event.flags & select.KQ_EV_EOF else 0),
                )
                for event in self._kqueue.control(None, limit, timeout)
            ]

else:

    class Kqueue:
        """What stands here where there is no kqueue."""

        @staticmethod
        def available() -> bool:
            """Tell whether this platform has kqueue."""
            return False
