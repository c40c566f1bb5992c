"""Tests of CPython's own that are known to fail under greenio, each with its reason. One that passes fails the run."""

from __future__ import annotations

import sys
from dataclasses import dataclass

__all__ = ["KNOWN", "Known", "known"]


@dataclass(frozen=True)
class Known:
    """One test that fails.

    Attributes:
        test: Its full name. `*` stands for anything, but not in that of one that hangs.
        modes: The modes in which it fails: "N", "G", or both.
        reason: Why, in a sentence.
        mend: What would have to be done about it, in a sentence.
        loops: The loops on which it fails in mode G.
        since: The first version on which it fails.
        until: The last one.
        hangs: Whether it does not end. Then it is run by itself, and not for long.
        sometimes: Whether it may as well pass: on another machine, or by chance.
    """

    test: str
    modes: str
    reason: str
    mend: str
    loops: tuple[str, ...] = ("asyncio", "uvloop")
    since: tuple[int, int] = (3, 10)
    until: tuple[int, int] = (3, 99)
    hangs: bool = False
    sometimes: bool = False

    def applies(self, mode: str) -> bool:
        """Tell whether it is expected to fail on this interpreter in a mode such as "N" or "G-uvloop"."""
        letter, _, loop = mode.partition("-")
        if letter not in self.modes or (loop and loop not in self.loops):
            return False
        return self.since <= sys.version_info[:2] <= self.until


_IDENTITIES = "Greenlets that have the identity of their thread; but what is kept by thread is to be a greenlet's own."

KNOWN: tuple[Known, ...] = (
    Known(
        "test.test_threading.ThreadTests.test_PyThreadState_SetAsyncExc",
        "G",
        "It gives get_ident(), which in a greenlet is no thread's number, to C code, and spins until that has raised.",
        mend=_IDENTITIES,
        hangs=True,
    ),
    Known(
        "test.test_threading.ThreadTests.test_main_thread",
        "G",
        "In a greenlet current_thread() is not the main thread, as in any thread but that.",
        mend=_IDENTITIES,
    ),
    Known(
        "test.test_threading.ExceptHookTests.test_excepthook_thread_None",
        "G",
        "The hook, which is C code, prints the number of the thread, and get_ident() tells the greenlet's.",
        mend="A hook of greenio's own, which would be a copy of that for the sake of one number.",
    ),
    Known(
        "test.test_threadsignals.ThreadSignals.test_signals",
        "G",
        "While the greenlet is parked its handler runs in the loop, where get_ident() tells the thread's number.",
        mend="Handlers that run with the identity of the greenlet that has set them, whatever they interrupt.",
        sometimes=True,  # when the signal comes while it runs
    ),
    *(
        Known(
            f"test.test_os.{walker}.test_walk_above_recursion_limit",
            "G",
            "It allows for 45 frames in all, and on this loop the greenlet is started deeper than that.",
            mend="A test that counts from the depth at which it is called, as that of CPython 3.13 does.",
            loops=("asyncio",),
            since=(3, 12),
            until=(3, 12),
        )
        for walker in ("WalkTests", "BytesWalkTests")
    ),
    *(
        Known(
            f"test.test_concurrent_futures.*ProcessPool{start}ProcessPoolExecutorTest.test_idle_process_reuse_one",
            "G",
            "The pool notes that a process is idle after it has handed over the result; who waits is to be slower.",
            mend="A pool that notes it before: CPython's to change.",
            sometimes=True,
        )
        for start in ("Spawn", "Forkserver")
    ),
    Known(
        "test.test_concurrent_futures.*.test_gh105829_should_not_deadlock_if_wakeup_pipe_full",
        "G",
        "Its stand-in for what wakes the pool waits for three seconds, under the lock with which nothing may park.",
        mend="A pool that wakes its thread without the lock that a coroutine takes, too: CPython's to change.",
        since=(3, 12),
    ),
    *(
        Known(
            "test.test_concurrent_futures.test_deadlock."
            f"ProcessPool{start}ExecutorDeadlockTest.test_shutdown_deadlock_pickle",
            "NG",
            "It hangs by chance, unpatched too: the pool joins the feeder of its queue with the lock that this takes.",
            mend="A feeder that takes the lock before it removes the work item: CPython's to change.",
            since=(3, 12),
            hangs=True,
            sometimes=True,
        )
        for start in ("Fork", "Forkserver", "Spawn")
    ),
    Known(
        "test.test_socket.ThreadedVSOCKSocketStreamTest.testStream",
        "NG",
        "It connects to the host by AF_VSOCK, and hangs unpatched too where there is the device but nobody answers.",
        mend="CPython 3.13, where it gives up.",
        until=(3, 12),
        hangs=True,
        sometimes=True,
    ),
)


def known(mode: str) -> list[Known]:
    """List what is expected to fail in a mode on this interpreter."""
    return [entry for entry in KNOWN if entry.applies(mode)]
