"""The public surface: which names there are, that they say what they do, and that importing them does nothing."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import textwrap
import typing
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import greenio
from greenio import debug, monkey, pytest_plugin, testing

FACE = [
    "GreenletPoolExecutor",
    "Timeout",
    "async_to_sync",
    "autosync",
    "await_",
    "enter",
    "get_loop",
    "in_greenlet",
    "install",
    "iterate",
    "offload",
    "run",
    "spawn",
    "sync_to_async",
    "task_factory",
    "timeout",
    "timeout_at",
    "to_greenlet",
    "uninstall",
    "wait_readable",
    "wait_writable",
]
if sys.version_info >= (3, 12):
    FACE.append("eager_task_factory")
MONKEY = [
    "BlockingCallError",
    "BlockingCallWarning",
    "Reference",
    "Report",
    "is_patched",
    "original",
    "patch_all",
    "patch_dns",
    "patch_fcntl",
    "patch_files",
    "patch_green_threads",
    "patch_local",
    "patch_multiprocessing",
    "patch_os",
    "patch_select",
    "patch_selectors",
    "patch_signal",
    "patch_socket",
    "patch_ssl",
    "patch_subprocess",
    "patch_threading",
    "patch_time",
    "patched",
    "report",
    "unpatch_all",
]
TESTING = [
    "Fault",
    "Faults",
    "VirtualClockLoop",
    "assert_no_leaks",
    "assert_parks",
    "faults",
    "wait_until_parked",
]
PLUGIN = ["Held", "LoopLag", "Serve", "greenio_loop", "loop_lag", "patched", "serve"]
DEBUG = [
    "Deadlock",
    "Frame",
    "GreenInfo",
    "Hold",
    "Listener",
    "LockWait",
    "LoopInfo",
    "PoolInfo",
    "Recorder",
    "Registration",
    "RunInfo",
    "TaskInfo",
    "Wait",
    "Watchdog",
    "WatchdogStats",
    "deadlocks",
    "dump_on_signal",
    "inspect",
    "listen",
    "print_run_info",
    "record",
    "run_info",
    "watchdog",
]
MODULES = {"greenio": greenio, "greenio.debug": debug, "greenio.monkey": monkey, "greenio.testing": testing}
SECTIONS = ("Args:", "Returns:", "Raises:", "Attributes:", "Yields:")


def functions() -> dict[str, Callable[..., Any]]:
    """Find every public function, and every public method of the public classes."""
    found: dict[str, Callable[..., Any]] = {}
    for module, face in MODULES.items():
        for name in face.__all__:
            value = getattr(face, name)
            if not inspect.isclass(value):
                found[f"{module}.{name}"] = value
                continue
            for method, function in vars(value).items():
                if inspect.isfunction(function) and not method.startswith("_"):
                    found[f"{module}.{name}.{method}"] = function
    return found


FUNCTIONS = functions()


FACES = {
    "greenio": (greenio, FACE),
    "debug": (debug, DEBUG),
    "monkey": (monkey, MONKEY),
    "testing": (testing, TESTING),
    "pytest_plugin": (pytest_plugin, PLUGIN),
}


@pytest.mark.parametrize(("module", "names"), FACES.values(), ids=FACES)
def test_names_are_listed_sorted_and_there(module, names):
    assert list(module.__all__) == sorted(names)
    assert all(hasattr(module, name) for name in names)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstring_says_what_it_does(name):
    text = inspect.getdoc(FUNCTIONS[name])
    assert text, "no docstring"
    summary = text.split("\n\n")[0].replace("\n", " ")
    assert re.match(r"[A-Z`]", summary), summary
    assert re.search(r"[.:]", summary), f"not a whole sentence: {summary}"
    assert not summary.split()[0].rstrip(",").endswith("s"), f"not imperative: {summary}"


def tells_of_parking(function: Callable[..., Any]) -> bool:
    """Tell whether a docstring says if the call parks; a decorator or a context manager may say it of what it makes."""
    return re.search(r"\b(parks?|parked|blocks the loop)\b", inspect.getdoc(function) or "", re.IGNORECASE) is not None


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if not name.startswith("greenio.monkey.Report.")])
def test_docstring_says_whether_it_parks(name):
    assert tells_of_parking(FUNCTIONS[name])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstring_names_every_parameter(name):
    function = FUNCTIONS[name]
    text = inspect.getdoc(function) or ""
    parameters = [
        parameter for parameter in inspect.signature(function).parameters.values() if parameter.name != "self"
    ]
    if len(parameters) <= 1 and "Args:" not in text:
        return  # a single argument is told in the first line
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    for parameter in parameters:
        entry = re.escape(stars.get(parameter.kind, "") + parameter.name)
        assert re.search(rf"^    {entry}: \S", text, re.MULTILINE), f"{parameter} is not explained"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_everything_is_annotated(name):
    function = inspect.unwrap(FUNCTIONS[name])
    hints = typing.get_type_hints(function)
    parameters = [parameter for parameter in inspect.signature(function).parameters if parameter != "self"]
    assert set(hints) >= {*parameters, "return"}


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (greenio, "GreenletPoolExecutor"),
        (greenio, "Timeout"),
        (monkey, "Reference"),
        (monkey, "Report"),
        *((testing, name) for name in TESTING),
        *((pytest_plugin, name) for name in PLUGIN[:3]),
    ],
)
def test_classes_are_explained(owner, name):
    assert inspect.getdoc(getattr(owner, name))


def test_package_is_marked_as_typed():
    assert (Path(greenio.__file__).parent / "py.typed").is_file()


def test_version_is_that_of_the_distribution():
    assert greenio.__version__ == version("asyncio-greenio")


def in_fresh_interpreter(script: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *options, "-c", textwrap.dedent(script)]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)


def test_import_patches_nothing_starts_nothing_and_warns_of_nothing():
    done = in_fresh_interpreter(
        """
        import asyncio, os, select, selectors, signal, socket, ssl, sys, threading, time

        def descriptors():
            return sorted(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else []

        owners = [os, select, selectors, socket, ssl, threading, time, socket.socket, ssl.SSLSocket, ssl.SSLContext,
                  selectors.DefaultSelector, threading.Thread, threading.Condition, asyncio, asyncio.BaseEventLoop]
        before = [dict(vars(owner)) for owner in owners]
        policy = asyncio.events._event_loop_policy
        hooks = sys.getswitchinterval(), sys.excepthook, threading.excepthook, sys.gettrace(), signal.getsignal(2)
        opened = descriptors()

        import greenio
        import greenio.monkey

        for owner, names in zip(owners, before):
            changed = {name for name, value in vars(owner).items() if names.get(name, None) is not value}
            changed.discard("__warningregistry__")
            assert not changed, f"{owner} was changed: {changed}"
        assert asyncio.events._event_loop_policy is policy
        assert hooks == (sys.getswitchinterval(), sys.excepthook, threading.excepthook, sys.gettrace(),
                         signal.getsignal(2))
        assert threading.active_count() == 1
        assert descriptors() == opened
        groups = ("socket", "ssl", "dns", "fcntl", "os", "select", "selectors", "signal", "threading", "time")
        assert not any(map(greenio.monkey.is_patched, groups))
        """,
        "-Werror",
        "-Xdev",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == done.stderr == ""


def test_import_needs_nothing_but_greenlet():
    done = in_fresh_interpreter(
        """
        import sys

        before = set(sys.modules)
        import greenio, greenio.monkey

        loaded = {name.partition(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names
        print(*sorted(loaded))
        """
    )
    assert done.stdout.split() == ["greenio", "greenlet"], done.stderr
