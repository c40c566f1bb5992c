"""Importing greenio brings little but greenio, on top of asyncio and greenlet, and patches nothing."""

import asyncio  # noqa: F401
import sys

import greenlet  # noqa: F401

before = set(sys.modules)
natives = {name: dict(vars(sys.modules[name])) for name in ("os", "select", "selectors", "socket", "threading", "time")}
import greenio  # noqa: E402, F401

brought = {name for name in set(sys.modules) - before if name.partition(".")[0] != "greenio"}
executor = {"_queue", "concurrent.futures.thread", "queue"}  # asyncio loads them at the first `to_thread`
assert brought <= {"__future__", "gc", *executor}, brought
assert "greenio.monkey" not in sys.modules
assert all(dict(vars(sys.modules[name])) == native for name, native in natives.items())
from greenio import monkey  # noqa: E402

assert not monkey.report().patched
assert all(dict(vars(sys.modules[name])) == native for name, native in natives.items())
print("ok")
