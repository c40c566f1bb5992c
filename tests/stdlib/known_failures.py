"""Tests of CPython's own that are known to fail under greenio, each with its reason. One that passes fails the run."""

from __future__ import annotations

import sys
from dataclasses import dataclass

__all__ = ["KNOWN", "Known", "known"]


@dataclass(frozen=True)
class Known:
    """One test that fails.

    Attributes:
        test: Its full name.
        modes: The modes in which it fails: "N", "G", or both.
        reason: Why, in a sentence.
        loops: The loops on which it fails in mode G.
        since: The first version on which it fails.
        until: The last one.
        hangs: Whether it does not end. Then it is run by itself, and not for long.
    """

    test: str
    modes: str
    reason: str
    loops: tuple[str, ...] = ("asyncio", "uvloop")
    since: tuple[int, int] = (3, 10)
    until: tuple[int, int] = (3, 99)
    hangs: bool = False

    def applies(self, mode: str) -> bool:
        """Tell whether it is expected to fail on this interpreter in a mode such as "N" or "G-uvloop"."""
        letter, _, loop = mode.partition("-")
        if letter not in self.modes or (loop and loop not in self.loops):
            return False
        return self.since <= sys.version_info[:2] <= self.until


KNOWN: tuple[Known, ...] = (
    Known(
        "test.test_threading.ThreadTests.test_PyThreadState_SetAsyncExc",
        "G",
        "It gives get_ident(), which in a greenlet is no thread's number, to C code, and spins until that has raised.",
        hangs=True,
    ),
    Known(
        "test.test_threading.ThreadTests.test_main_thread",
        "G",
        "In a greenlet current_thread() is not the main thread, as in any thread but that.",
    ),
    Known(
        "test.test_threading.ExceptHookTests.test_excepthook_thread_None",
        "G",
        "The hook, which is C code, prints the number of the thread, and get_ident() tells the greenlet's.",
    ),
    Known(
        "test.test_threadsignals.ThreadSignals.test_signals",
        "G",
        "While the greenlet is parked its handler runs in the loop, where get_ident() tells the thread's number.",
    ),
    *(
        Known(
            f"test.test_os.{walker}.test_walk_above_recursion_limit",
            "G",
            "It allows for 45 frames in all, and on this loop the greenlet is started deeper than that.",
            loops=("asyncio",),
            since=(3, 12),
            until=(3, 12),
        )
        for walker in ("WalkTests", "BytesWalkTests")
    ),
)


def known(mode: str) -> dict[str, Known]:
    """Look up what is expected to fail in a mode on this interpreter."""
    return {entry.test: entry for entry in KNOWN if entry.applies(mode)}
