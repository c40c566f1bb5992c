"""The pytest plugin: sync tests that run green on the loop of pytest-asyncio, and fixtures for mixed programs.

pytest finds it by its entry point. It changes nothing about tests that are not marked with `@pytest.mark.greenio` (and,
with the ini `greenio_mode = auto`, nothing about async tests), and patches nothing unless the fixture `patched` is
asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import sys
from asyncio import AbstractEventLoop
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, cast

import pytest

from . import to_greenlet
from ._harness._fixtures import as_async_fixture, bound, entered_around, in_pieces
from ._harness._lag import Held, LoopLag
from ._harness._loops import (
    LOOP_FACTORY,
    SCOPES,
    OwnRunner,
    Scope,
    ScopedLoop,
    anyio_drives,
    broader,
    find_loop,
    has_pytest_asyncio,
    is_async,
    is_asyncio_fixture,
    is_run_by_anyio,
    is_run_by_pytest_asyncio,
    loop_factories,
    loop_factory,
    loop_scope,
)
from ._harness._pieces import Contexts, run_piece, run_within
from ._harness._servers import Serve

__all__ = ["Held", "LoopLag", "Serve", "greenio_loop", "loop_lag", "patched", "serve"]

_OTHERS = frozenset({"_pytest", "anyio", "greenio", "pytest_asyncio", "xdist"})
"""Packages whose fixtures stay native, among them those that make the loops."""

_LOOP_FIXTURES = frozenset({"anyio_backend", "anyio_backend_name", "anyio_backend_options", "event_loop_policy"})
"""Fixtures of these packages that suites override, and that are needed to make a loop."""

_XUNIT = ("_xunit_setup_", "_unittest_")
"""How pytest's own fixtures begin that call `setup_module`, `setUpClass` and the like."""


class _Choice(NamedTuple):
    """How a test is run.

    Attributes:
        green: Its code is green.
        managed: The plugin runs it on its loop, rather than pytest, pytest-asyncio or anyio.
    """

    green: bool
    managed: bool


_NATIVE = _Choice(green=False, managed=False)
_choice = pytest.StashKey[_Choice]()
_loop = pytest.StashKey[ScopedLoop]()
_contexts = pytest.StashKey[Contexts]()
_lag = pytest.StashKey[LoopLag]()
_current = pytest.StashKey["pytest.Item | None"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the ini options. Never parks."""
    parser.addini("greenio_mode", "strict: run marked tests green; auto: run every sync test green", default="strict")
    parser.addini(
        "greenio_loop_factory",
        "what makes the loops where pytest-asyncio is not there: uvloop, or a callable's dotted name",
        default="",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marks. Never parks."""
    mode = config.getini("greenio_mode")
    if mode not in ("auto", "strict"):
        raise pytest.UsageError(f"greenio_mode = {mode}: there are strict and auto")
    for line in (
        "greenio(*, green=None, loop_scope=None): run a sync test green on the loop, or with green=True an async one",
        "loop_lag(seconds): fail the test if its loop is held for longer",
        "patched(*groups, **choices): what the fixture `patched` patches, as greenio.monkey.patched takes it",
    ):
        config.addinivalue_line("markers", line)
    config.stash[_current] = None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have tests that need a loop ask for it. Never parks."""
    for item in items:
        if not isinstance(item, pytest.Function):
            continue
        choice = item.stash[_choice] = _choose(item)
        wanted = ["loop_lag"] if _marked_lag(item) is not None else []
        if choice.managed:
            wanted.append("greenio_loop")
        item.fixturenames.extend(name for name in wanted if name not in item.fixturenames)
        if choice.managed and not is_async(item) and item.get_closest_marker("asyncio") is not None:
            # The mark is there for a whole module or class, or for its loop scope.
            item.add_marker(pytest.mark.filterwarnings("ignore:.*but it is not an async function:pytest.PytestWarning"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a sync test once for each loop that a suite has pytest-asyncio run its async tests on. Never parks."""
    item = cast("pytest.Function", metafunc.definition)
    if is_async(item) or not _choose(item).managed or not (factories := loop_factories(item)):
        return
    metafunc.fixturenames.append(LOOP_FACTORY)
    metafunc.parametrize(
        LOOP_FACTORY, list(factories.values()), ids=list(factories), indirect=True, scope=loop_scope(item)
    )


def _is_test_case(item: pytest.Function) -> bool:
    unittest = sys.modules.get("unittest")
    return unittest is not None and item.cls is not None and issubclass(item.cls, unittest.TestCase)


def _choose(item: pytest.Function) -> _Choice:
    mark = item.get_closest_marker("greenio")
    if mark is None and item.config.getini("greenio_mode") != "auto":
        return _NATIVE
    green = _options(item, mark).get("green")
    if not is_async(item):
        green = green is not False
        return _Choice(green, managed=green and not is_run_by_anyio(item))
    if not inspect.iscoroutinefunction(item.obj):
        return _NATIVE  # hypothesis's, around a coroutine function
    others = is_run_by_pytest_asyncio(item) or is_run_by_anyio(item)
    return _Choice(green is True, managed=mark is not None and not others and not _is_test_case(item))


def _options(item: pytest.Function, mark: pytest.Mark | None) -> dict[str, Any]:
    if mark is None:
        return {}
    if mark.args or not set(mark.kwargs) <= {"green", "loop_scope"}:
        raise pytest.UsageError(f"{item.nodeid}: mark.greenio takes green= and loop_scope=, not {mark}")
    return dict(mark.kwargs)


def _marked_lag(item: pytest.Function) -> LoopLag | None:
    mark = item.get_closest_marker("loop_lag")
    if mark is None:
        return None
    try:
        return LoopLag(*mark.args, **mark.kwargs)
    except (TypeError, ValueError):
        raise pytest.UsageError(
            f"{item.nodeid}: mark.loop_lag takes a number of seconds, more than 0, as in loop_lag(0.05), not {mark}"
        ) from None


def _choice_of(item: pytest.Item | None) -> _Choice:
    return _NATIVE if item is None else item.stash.get(_choice, _NATIVE)


def _contexts_of(config: pytest.Config) -> Contexts:
    if _contexts not in config.stash:
        config.stash[_contexts] = Contexts()
    return config.stash[_contexts]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Know the test for whose sake fixtures are made. Never parks."""
    item.config.stash[_current] = item
    try:
        return (yield)
    finally:
        item.config.stash[_current] = None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Watch the loop of a marked test from its first fixture on. Never parks."""
    if isinstance(item, pytest.Function) and (lag := _marked_lag(item)) is not None:
        item.stash[_lag] = lag


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a marked test whose loop is held while its fixtures end. Never parks itself."""
    lag = item.stash.get(_lag, None)
    if lag is None:
        return (yield)
    lag.held.clear()
    outcome = yield
    if lag.held:
        pytest.fail(lag.message(), pytrace=False)
    return outcome


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """Run the sync fixtures of a green test green, their second halves and finalizers too. Never parks itself."""
    item = request.config.stash.get(_current, None)
    if not isinstance(item, pytest.Function):
        return (yield)
    native, contexts = fixturedef.func, _contexts_of(item.config)
    of_anyio = _OF_ANYIO.get(fixturedef.argname) if native.__module__ == __name__ and is_run_by_anyio(item) else None
    if of_anyio is not None and anyio_drives(fixturedef, request, item):
        _set(fixturedef, "func", of_anyio)
    function, around = bound(fixturedef.func, request.instance), functools.partial(_around_fixtures, item.config)
    if not _is_ours(fixturedef, request, item):
        if _lag in item.stash and (inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)):
            _set(fixturedef, "func", entered_around(function, around))
    elif is_run_by_anyio(item):
        if anyio_drives(fixturedef, request, item):
            _set(fixturedef, "func", entered_around(as_async_fixture(function, request, contexts), around))
    else:
        scoped = find_loop(request, item, broader(loop_scope(item), fixturedef.scope))
        run, add_finalizer = functools.partial(run_piece, scoped, contexts, around=around), request.addfinalizer
        _set(request, "addfinalizer", lambda finalizer: add_finalizer(functools.partial(run, finalizer)))
        _set(fixturedef, "func", in_pieces(function, run))
    try:
        return (yield)
    finally:
        _set(fixturedef, "func", native)


def _set(owner: object, name: str, value: object) -> None:
    """Set an attribute of an object of pytest's, for a time; to type checkers these are read-only."""
    setattr(owner, name, value)


def _is_ours(fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest, item: pytest.Function) -> bool:
    """Tell whether a fixture is to run on the loop: a sync one of a green test.

    Async ones are pytest-asyncio's or anyio's; where neither is there to drive them, they are run here as well.
    """
    choice, function, name = _choice_of(item), fixturedef.func, fixturedef.argname
    if name in _LOOP_FIXTURES or not (choice.managed or choice.green):
        return False
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return choice.managed and not has_pytest_asyncio(item.config) and "anyio_backend" not in request.fixturenames
    if not choice.green or is_asyncio_fixture(function) or (is_async(item) and _is_test_case(item)):
        return False
    package = str(getattr(function, "__module__", "")).partition(".")[0]
    return package not in _OTHERS or name.startswith(_XUNIT)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Make tests green that others run: those of `unittest`, and async ones of pytest-asyncio. Never parks itself."""
    __tracebackhide__ = True
    choice = _choice_of(item)
    if not isinstance(item, pytest.Function):
        return (yield)
    lag = _lag_of(item)
    with contextlib.ExitStack() as stack:
        if choice.managed and _is_test_case(item):
            run = functools.partial(run_piece, item.stash[_loop], _contexts_of(item.config), around=_around(lag))
            stack.enter_context(_replaced(item, "runtest", functools.partial(run, item.runtest)))
        elif not choice.managed and (lag is not None or choice.green) and (is_async(item) or choice.green):
            test = _async_test(item, choice.green, _around(lag))
            stack.enter_context(_replaced(item, "obj", test))
            if _is_test_case(item):  # `unittest` looks async ones up by itself
                stack.enter_context(_replaced(item.instance, item.name, test))
        outcome = yield
    if lag is not None and lag.held:
        pytest.fail(lag.message(), pytrace=False)
    return outcome


def _lag_of(item: pytest.Function) -> LoopLag | None:
    return cast("LoopLag | None", item.funcargs.get("loop_lag"))


def _around(lag: LoopLag | None) -> Callable[[], AbstractContextManager[object]]:
    return contextlib.nullcontext if lag is None else lambda: lag


def _around_fixtures(config: pytest.Config) -> AbstractContextManager[object]:
    """Watch what fixtures do for the sake of a marked test; of those of a broader scope, the end is the last one's."""
    item = config.stash.get(_current, None)
    lag = None if item is None else item.stash.get(_lag, None)
    return contextlib.nullcontext() if lag is None else lag


_MISSING = object()


@contextlib.contextmanager
def _replaced(owner: object, name: str, value: object) -> Iterator[None]:
    own = vars(owner).get(name, _MISSING)
    native = getattr(owner, name)
    _set(owner, name, value)
    try:
        yield
    finally:
        if own is _MISSING and name in vars(owner):
            delattr(owner, name)
        else:
            _set(owner, name, native)


def _async_test(
    item: pytest.Function, green: bool, around: Callable[[], AbstractContextManager[object]]
) -> Callable[..., Any]:
    """Make a coroutine function for whoever runs the test, in which it is green."""
    function = item.obj
    run = to_greenlet if is_async(item) else functools.partial(run_within, _contexts_of(item.config))

    @functools.wraps(function)
    async def test(*args: Any, **kwargs: Any) -> None:
        __tracebackhide__ = True
        with around():
            if green:
                await run(functools.partial(function, *args, **kwargs))
            else:
                await function(*args, **kwargs)

    return test


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Run a test on its loop. Never parks itself."""
    __tracebackhide__ = True
    choice = _choice_of(pyfuncitem)
    if not choice.managed:
        return (yield)
    request = cast("pytest.FixtureRequest | None", pyfuncitem.funcargs.get("request"))
    run = functools.partial(run_piece, pyfuncitem.stash[_loop], _contexts_of(pyfuncitem.config))
    function = pyfuncitem.obj
    call = functools.partial(run, around=_around(_lag_of(pyfuncitem)), green=choice.green)

    @functools.wraps(function)
    def test(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        return call(functools.partial(function, *args, **kwargs))  # a fixture may have the name of any parameter

    with contextlib.ExitStack() as stack:
        stack.enter_context(_replaced(pyfuncitem, "obj", test))
        if request is not None and choice.green:
            add_finalizer = request.addfinalizer
            finalize = functools.partial(functools.partial, run)
            stack.enter_context(
                _replaced(request, "addfinalizer", lambda finalizer: add_finalizer(finalize(finalizer)))
            )
        return (yield)


def _make_runner_fixture(scope: Scope) -> Any:
    @pytest.fixture(scope=scope, name=f"_greenio_{scope}_runner")
    def runner(request: pytest.FixtureRequest) -> Iterator[Any]:
        made = OwnRunner(loop_factory=loop_factory(request.config))
        yield made
        made.close()

    return runner


_runners = [_make_runner_fixture(scope) for scope in SCOPES]
(
    _greenio_function_runner,
    _greenio_class_runner,
    _greenio_module_runner,
    _greenio_package_runner,
    _greenio_session_runner,
) = _runners


@pytest.fixture
def greenio_loop(request: pytest.FixtureRequest) -> AbstractEventLoop:
    """The loop that the test runs on, green or async."""
    item = request.node
    if isinstance(item, pytest.Function) and is_run_by_anyio(item):
        raise pytest.UsageError(
            f"{item.nodeid}: `greenio_loop` and `serve` are on asyncio's loop, or uvloop's, and this is run by anyio "
            f"on another backend"
        )
    scoped = item.stash[_loop] = find_loop(request, item, loop_scope(item))
    return scoped.loop


@pytest.fixture
def serve(request: pytest.FixtureRequest, greenio_loop: AbstractEventLoop) -> Iterator[Serve]:
    """Serve an application on a free port of the loopback, on the loop of the test: `url = serve(app)`.

    `app` is an ASGI or WSGI application, or the class of an asyncio protocol. In async code: `await serve.start(app)`.
    """
    scoped = request.node.stash[_loop]
    servers = Serve(scoped)
    yield servers
    scoped.run(servers.stop())


async def _greenio_loop(request: pytest.FixtureRequest) -> AbstractEventLoop:
    return asyncio.get_running_loop()


async def _serve(request: pytest.FixtureRequest, greenio_loop: AbstractEventLoop) -> AsyncIterator[Serve]:
    servers = Serve(ScopedLoop(greenio_loop))
    yield servers
    await servers.stop()


_OF_ANYIO: dict[str, Callable[..., Any]] = {"greenio_loop": _greenio_loop, "serve": _serve}
"""What anyio drives in the place of these fixtures, where it runs the test."""


@pytest.fixture
def loop_lag(request: pytest.FixtureRequest) -> LoopLag:
    """Fail the test if its loop is held for longer than `@pytest.mark.loop_lag(seconds)`, and show where."""
    return cast("LoopLag", request.node.stash.get(_lag, None) or LoopLag())


@pytest.fixture
def patched(request: pytest.FixtureRequest) -> Iterator[None]:
    """Patch the standard library for the time of the test; `@pytest.mark.patched("time", ...)` says which groups."""
    from . import monkey

    mark = request.node.get_closest_marker("patched")
    with monkey.patched(*mark.args, **mark.kwargs) if mark is not None else monkey.patched():
        yield
