"""Test suites of the pytest plugin, each run in a process of its own: `pytest_plugins = ["pytester", "suites"]`."""

from __future__ import annotations

import re
import sys
import textwrap

import pytest

__all__ = ["ASYNC_FIXTURE", "HEAD", "STRICT", "WITH_AND_WITHOUT", "section", "suite"]

HEAD = """
import asyncio
import contextvars
import socket
import threading
import time
import unittest

import pytest

import greenio
from greenio import await_, get_loop, in_greenlet, monkey
from greenio.testing import VirtualClockLoop, wait_until_parked
"""
STRICT = "asyncio_default_fixture_loop_scope = function\n"


@pytest.fixture
def suite(pytester, monkeypatch):
    """Run a test suite: `suite(source, *arguments, ini=...)`."""
    for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS"):
        monkeypatch.delenv(name, raising=False)

    def run(source, *arguments, ini="", stdin=None, timeout=50, **files):
        asyncio_ini = "" if "no:asyncio" in arguments else STRICT
        pytester.makeini(f"[pytest]\nfilterwarnings = error\n{asyncio_ini}{ini}")
        pytester.makepyfile(test_it=HEAD + textwrap.dedent(source), **{k: textwrap.dedent(v) for k, v in files.items()})
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", *arguments]
        return pytester.run(*command, timeout=timeout, **({} if stdin is None else {"stdin": stdin}))

    return run


def section(result, title):
    """Look up what pytest tells of one failure or error."""
    found = re.search(rf"^_+ {title} _+$(.*?)(?=^_{{5,}} |^=|\Z)", result.stdout.str(), re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


# Without pytest-asyncio the plugin drives async fixtures itself, on a loop of its own.
WITH_AND_WITHOUT = pytest.mark.parametrize("arguments", [(), ("-p", "no:asyncio")], ids=["pytest-asyncio", "alone"])
ASYNC_FIXTURE = """
try:
    import pytest_asyncio
except ImportError:
    fixture = pytest.fixture
else:
    fixture = pytest_asyncio.fixture
if "-p" in __import__("sys").argv and "no:asyncio" in __import__("sys").argv:
    fixture = pytest.fixture
"""
