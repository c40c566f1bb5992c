"""Which loop a test runs on: pytest-asyncio's where that is installed, one of the plugin's own otherwise.

pytest-asyncio has no public way to its loops: it hides them behind fixtures whose names and values have changed with
its versions. All that is known of them stands in this file, is looked for before it is used, and ends in an error that
says so where it is not found.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
import sys
from asyncio import AbstractEventLoop
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Literal, TypeAlias

import pytest

from .. import _original, in_greenlet

__all__ = [
    "LOOP_FACTORY",
    "SCOPES",
    "LoopFactory",
    "OwnRunner",
    "Scope",
    "ScopedLoop",
    "anyio_drives",
    "broader",
    "find_loop",
    "has_pytest_asyncio",
    "is_async",
    "is_asyncio_fixture",
    "is_run_by_anyio",
    "is_run_by_pytest_asyncio",
    "is_running",
    "loop_factories",
    "loop_factory",
    "loop_scope",
]

Scope: TypeAlias = Literal["function", "class", "module", "package", "session"]
LoopFactory: TypeAlias = Callable[[], AbstractEventLoop]

SCOPES: tuple[Scope, ...] = ("function", "class", "module", "package", "session")
"""From the narrowest to the broadest."""

LOOP_FACTORY = "_asyncio_loop_factory"
"""pytest-asyncio's fixture whose parameter is the loop factory."""

_NODES: dict[str, Any] = {
    "class": pytest.Class,
    "module": pytest.Module,
    "package": pytest.Package,
    "session": pytest.Session,
}


class ScopedLoop:
    """A loop that stands still but for the pieces of tests and fixtures that are run on it.

    Attributes:
        loop: The loop.
    """

    def __init__(self, value: Any) -> None:
        """Take what a fixture gives: a loop, or a runner of one."""
        self._runner = None if isinstance(value, AbstractEventLoop) else value
        self.loop: AbstractEventLoop = value if self._runner is None else self._runner.get_loop()

    def run(self, coroutine: Coroutine[Any, Any, Any], context: Context | None = None) -> None:
        """Run a coroutine to its end, as a task in `context`, if this version of Python knows how to; else in a copy.

        A runner turns Ctrl-C into a cancellation of the task.
        """
        __tracebackhide__ = True
        if self._runner is not None:
            self._runner.run(coroutine, context=context)
        else:
            self.loop.run_until_complete(_create_task(self.loop, coroutine, context))


if sys.version_info >= (3, 11):

    def _create_task(
        loop: AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], context: Context | None
    ) -> asyncio.Task[Any]:
        return loop.create_task(coroutine, context=context)

    OwnRunner = asyncio.Runner

else:  # CPython 3.10

    def _create_task(
        loop: AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], context: Context | None
    ) -> asyncio.Task[Any]:
        return loop.create_task(coroutine) if context is None else context.copy().run(loop.create_task, coroutine)

    class OwnRunner:
        """What there is of `asyncio.Runner` in later versions."""

        def __init__(self, *, loop_factory: LoopFactory | None = None) -> None:
            self._loop = (loop_factory or _original.new_event_loop)()
            _original.set_event_loop(self._loop)

        def get_loop(self) -> AbstractEventLoop:
            """Look the loop up."""
            return self._loop

        def run(self, coro: Coroutine[Any, Any, Any], *, context: Context | None = None) -> Any:
            """Run a coroutine to its end."""
            return self._loop.run_until_complete(_create_task(self._loop, coro, context))

        def close(self) -> None:
            """Cancel what is left, wait for it, and close the loop."""
            loop = self._loop
            try:
                left = asyncio.all_tasks(loop)
                for task in left:
                    task.cancel()
                if left:
                    loop.run_until_complete(asyncio.wait(left))
                loop.run_until_complete(loop.shutdown_asyncgens())
                loop.run_until_complete(loop.shutdown_default_executor())
            finally:
                _original.set_event_loop(None)
                loop.close()


def is_running() -> bool:
    """Tell whether a loop runs in the caller's code."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def broader(one: Scope, other: Scope) -> Scope:
    """Choose the scope that lasts longer."""
    return max(one, other, key=SCOPES.index)


def loop_factory(config: pytest.Config) -> LoopFactory | None:
    """Look up what `greenio_loop_factory` names: `uvloop` for short, or a callable by its dotted name."""
    name = str(config.getini("greenio_loop_factory"))
    if not name:
        return None
    module, _, attribute = ("uvloop.new_event_loop" if name == "uvloop" else name).rpartition(".")
    try:
        factory: LoopFactory = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise pytest.UsageError(
            f"greenio_loop_factory = {name}: {error}; write `uvloop`, or the dotted name of a callable"
        ) from error
    return factory


def has_pytest_asyncio(config: pytest.Config) -> bool:
    """Tell whether pytest-asyncio takes part in this run."""
    return config.pluginmanager.has_plugin("asyncio")


def is_run_by_pytest_asyncio(item: pytest.Function) -> bool:
    """Tell whether pytest-asyncio runs a test: an async one with its mark, which its auto mode sets by itself."""
    return is_async(item) and has_pytest_asyncio(item.config) and item.get_closest_marker("asyncio") is not None


def is_run_by_anyio(item: pytest.Function) -> bool:
    """Tell whether anyio's plugin runs a test, or would if it were async, on the loop of its async fixtures."""
    return "anyio_backend" in item.fixturenames and not is_run_by_pytest_asyncio(item)


def anyio_drives(fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest, item: pytest.Function) -> bool:
    """Tell whether anyio's plugin would drive a fixture, were it async, on a loop of asyncio.

    It does not while a test runs, nor for a scope that is broader than its backend's, nor what the backend is made of.
    """
    needed = _needed_for("anyio_backend", item)
    if not needed or fixturedef.argname in needed or "anyio_backend" not in request.fixturenames:
        return False
    if is_running() or in_greenlet():
        return False
    try:
        backend = request.getfixturevalue("anyio_backend")
    except pytest.fail.Exception:
        return False
    if "asyncio" not in (backend, backend[0]):
        return False
    _finish_before(request, "anyio_backend")
    return True


def _needed_for(name: str, item: pytest.Function) -> set[str]:
    """List a fixture and all that it asks for; nothing if pytest does not tell."""
    known = getattr(getattr(item, "_fixtureinfo", None), "name2fixturedefs", {})
    found: set[str] = set()
    left = [name]
    while left:
        name = left.pop()
        if name in known and name not in found:
            found.add(name)
            left.extend(argument for each in known[name] for argument in each.argnames)
    return found


def is_async(item: pytest.Function) -> bool:
    """Tell whether a test is a coroutine function, also under hypothesis's `given`."""
    function = getattr(getattr(item.obj, "hypothesis", None), "inner_test", item.obj)
    return inspect.iscoroutinefunction(function)


def is_asyncio_fixture(function: Any) -> bool:
    """Tell whether pytest-asyncio drives a fixture: one that it declared, or in its auto mode has made its own."""
    function = getattr(function, "__func__", function)
    return bool(getattr(function, "_force_asyncio_fixture", False))


def loop_scope(item: pytest.Item) -> Scope:
    """Tell how broad the loop of a test is: as its marks say, else as pytest-asyncio's ini says."""
    for name, keys in (("greenio", ("loop_scope",)), ("asyncio", ("loop_scope", "scope"))):
        mark = item.get_closest_marker(name)
        for key in keys:
            if mark is not None and mark.kwargs.get(key) is not None:
                return _checked(mark.kwargs[key], item)
    if has_pytest_asyncio(item.config):
        return _checked(item.config.getini("asyncio_default_test_loop_scope"), item)
    return "function"


def _checked(scope: Any, item: pytest.Item) -> Scope:
    if scope not in SCOPES:
        raise pytest.UsageError(f"{item.nodeid}: no loop scope is called {scope!r}; there are {', '.join(SCOPES)}")
    return scope  # type: ignore[no-any-return]


def find_loop(request: pytest.FixtureRequest, item: pytest.Item, scope: Scope) -> ScopedLoop:
    """Look up the loop of a scope, or have it made, on behalf of a test or of a fixture.

    Args:
        request: Of the fixture that will need the loop to the end of its own time.
        item: The test.
        scope: How broad the loop is.
    """
    name = _name_of_fixture(item, scope) if has_pytest_asyncio(item.config) else f"_greenio_{scope}_runner"
    value = request.getfixturevalue(name)
    _finish_before(request, name)
    return ScopedLoop(value)


def loop_factories(item: pytest.Function) -> dict[str, LoopFactory]:
    """Ask for the loop factories that a suite gives to pytest-asyncio by its hook, by their names; from 1.4 on."""
    hook = getattr(item.ihook, "pytest_asyncio_loop_factories", None)
    plugin = item.config.pluginmanager.get_plugin("asyncio")
    if hook is None or not hook.get_hookimpls() or not hasattr(plugin, LOOP_FACTORY):
        return {}
    return dict(hook(config=item.config, item=item) or {})


def _name_of_fixture(item: pytest.Item, scope: Scope) -> str:
    plugin = item.config.pluginmanager.get_plugin("asyncio")
    for name in (f"_{scope}_scoped_runner", f"_{scope}_event_loop"):  # from 1.1, and 1.0
        if hasattr(plugin, name):
            return name
    if scope == "function" and hasattr(plugin, "event_loop"):  # up to 0.26
        return "event_loop"
    key, node = getattr(plugin, "_event_loop_fixture_id", None), item.getparent(_NODES.get(scope, pytest.Session))
    if node is None:
        raise pytest.UsageError(f"{item.nodeid}: has a loop of the scope {scope}, but is not part of any {scope}")
    if key is None or key not in node.stash:
        version = getattr(sys.modules.get("pytest_asyncio"), "__version__", "of unknown version")
        raise pytest.UsageError(
            f"{item.nodeid}: greenio does not know how pytest-asyncio {version} keeps its loops; "
            f"0.26 to 1.5 are known. Run without it: -p no:asyncio"
        )
    return str(node.stash[key])


def _finish_before(request: pytest.FixtureRequest, name: str) -> None:
    """Have a fixture finished before the one that its loop hangs on, even where that is made anew for a parameter."""
    look_up = getattr(request, "_get_active_fixturedef", None)
    own = getattr(request, "_fixturedef", None)
    if look_up is not None and own is not None:
        look_up(name).addfinalizer(functools.partial(own.finish, request=request))
