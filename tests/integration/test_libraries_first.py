"""Libraries that were imported, and connections that were made, before anything was patched."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.usefixtures("redis_server", "mariadb", "postgres", "rabbitmq")
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_libraries_that_are_older_than_the_patch(loop):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(HERE / "libraries_first.py"), loop]
    found = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False, env=environment)
    assert found.stdout == "65 calls; the loop was late by less than two seconds, True\n", found.stderr
