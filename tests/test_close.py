"""`os.close` belongs to two groups: each alone wakes who waits, and either may go first."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
import types

import pytest

from greenio import monkey, to_greenlet
from waiting import until_parked

GROUPS = ("os", "socket")
NATIVE = (os.close,)  # a name would be exchanged


async def check():
    """A green that is parked wakes when another, native code, or another thread closes its descriptor."""
    for close in (lambda fd: to_greenlet(os.close, fd), lambda fd: asyncio.to_thread(os.close, fd)):
        reader, writer = os.pipe()
        running = asyncio.ensure_future(to_greenlet(os.read, reader, 10))
        await until_parked()
        await close(reader)
        with pytest.raises(OSError) as caught:
            await asyncio.wait_for(running, 10)
        assert caught.value.errno == errno.EBADF
        os.close(writer)


@pytest.mark.parametrize("groups", [("os",), ("os", "socket"), ("os", "files"), ("os", "multiprocessing")])
def test_who_is_parked_in_a_read_wakes(arun, groups):
    with monkey.patched(*groups):
        assert monkey.is_patched("os.close")
        arun(check)
    assert os.close is NATIVE[0]


@pytest.mark.parametrize("leaves", GROUPS)
@pytest.mark.parametrize("comes", GROUPS)
def test_either_group_comes_or_goes_first(arun, comes, leaves, monkeypatch):
    holder = types.ModuleType("early_user_of_close")
    holder.close = os.close
    monkeypatch.setitem(sys.modules, holder.__name__, holder)
    order = (comes, *(name for name in GROUPS if name != comes))
    blocks = {name: monkey.patched(name) for name in order}
    for block in blocks.values():
        block.__enter__()
        assert os.close is holder.close is not NATIVE[0]
    assert monkey.original("os", "close") is NATIVE[0]
    blocks.pop(leaves).__exit__(None, None, None)
    assert os.close is holder.close is not NATIVE[0]
    assert monkey.original("os", "close") is NATIVE[0]
    if leaves == "socket":
        arun(check)
    (last,) = blocks.values()
    last.__exit__(None, None, None)
    assert os.close is holder.close is NATIVE[0]
