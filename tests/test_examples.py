"""Every example runs as its first lines say: in a fresh interpreter, on both loops, to its own end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"

EXPECTED = {
    "fan_out.py": r"200/200 .*fetched 200 pages, 4490 bytes, in \d+\.\d\d s",
    "nested_run.py": r"20 answers, from 'answer 0' to 'answer 19', each from an asyncio\.run of its own",
    "pipeline.py": r"collected 300 of 300.*8 blocking consumers stored 300 readings, \[.*\] each; the list grew to 300",
    "service.py": r'"text":"you asked for /item/6".*"price":42.*to_thread.*to_greenlet.*times less time',
    "test_orders.py": r"^\.{5} .*\n5 passed",
    "sqlalchemy_orm.py": r"50 orders of 50 customers, \d+ connections.*each saw its own",
}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-W", "error::ResourceWarning", str(EXAMPLES / arguments[0]), *arguments[1:]]


def run(*arguments: str) -> str:
    found = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=50, check=False)
    assert found.returncode == 0, found.stderr
    assert not found.stderr, found.stderr
    return found.stdout


def test_every_example_is_here():
    assert {path.name for path in EXAMPLES.glob("*.py")} - {"stage.py"} == set(EXPECTED)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_example(name, loop):
    printed = run(name, "--loop", loop)
    assert re.search(EXPECTED[name], printed, re.DOTALL), printed


def test_tests_of_an_example_beside_pytest_asyncio():
    """As a suite would run them: by pytest, with all the plugins that are here."""
    path = EXAMPLES / "test_orders.py"
    options = ["-q", "-c", os.devnull, "-W", "error", "-o", "asyncio_default_fixture_loop_scope=function"]
    command = [sys.executable, "-m", "pytest", *options, "-p", "no:cacheprovider", str(path)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "5 passed" in found.stdout


@pytest.mark.parametrize("name", ["pipeline.py", "service.py", "sqlalchemy_orm.py"])
def test_example_on_embedded_servers(name):
    printed = run(name, "--embedded")
    assert re.search(EXPECTED[name], printed, re.DOTALL), printed
    if name == "service.py":
        assert "embedded Redis, SQLite through offload" in printed


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_service_that_is_kept_running(loop):
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    arguments = command("service.py", "--serve", "--embedded", "--port", "0", "--loop", loop)
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        port = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        assert port is not None, line
        answer = subprocess.run(
            [sys.executable, "-c", f"import requests; print(requests.get('{port[0]}/green/3', timeout=20).json())"],
            capture_output=True, text=True, timeout=30, check=True,
        ).stdout  # fmt: skip
        process.send_signal(signal.SIGINT)
        process.wait(20)
    assert "'price': 21" in answer
