"""Green tests that others run: anyio's plugin, on the loop of its runner, and pytest-asyncio with `green=True`."""

from __future__ import annotations

import pytest

from suites import section

pytest_plugins = ["pytester", "suites"]

BACKEND = """
ENDED = []

@pytest.fixture(scope="module", params=[False, True])
def use_uvloop(request):
    assert not in_greenlet()
    return request.param

@pytest.fixture(scope="module")
def anyio_backend(use_uvloop):
    assert not in_greenlet()
    return "asyncio", {"use_uvloop": use_uvloop}

@pytest.fixture
async def loop(anyio_backend):
    await asyncio.sleep(0.001)
    yield asyncio.get_running_loop()
"""
KINDS = pytest.mark.parametrize(
    "test",
    [
        "@pytest.mark.greenio\n    def test(self, {arguments}):",
        "@pytest.mark.anyio\n    @pytest.mark.greenio(green=True)\n    async def test(self, {arguments}):",
    ],
    ids=["sync", "async"],
)


@KINDS
def test_sync_fixtures_run_green_on_the_loop_of_anyio(suite, test):
    result = suite(
        BACKEND
        + """
monkey.patch_all()
VARIABLE = contextvars.ContextVar("VARIABLE", default="unset")
LOCAL = threading.local()

@pytest.fixture(scope="module")
def of_module(anyio_backend):
    assert in_greenlet()
    time.sleep(0.001)
    yield get_loop()
    assert in_greenlet()
    time.sleep(0.001)
    ENDED.append("module")

@pytest.fixture
def halves(loop, of_module, use_uvloop):
    assert get_loop() is loop is of_module
    assert type(loop).__module__.startswith("uvloop") is use_uvloop
    VARIABLE.set("set")
    LOCAL.value = "set"
    await_(asyncio.sleep(0.001))
    yield 5
    assert get_loop() is loop
    time.sleep(0.001)
    VARIABLE.set("unset")
    ENDED.append("halves")

@pytest.fixture(params=[6, 7])
def plain(request, halves, loop):
    def finalize():
        assert get_loop() is loop
        time.sleep(0.001)
        ENDED.append("finalizer")
    request.addfinalizer(finalize)
    request.addfinalizer(lambda: ENDED.append("finalizer first"))
    turns = []
    loop.call_soon(turns.append, 1)
    time.sleep(0.001)
    assert turns
    return halves + request.param

@pytest.fixture
def later():
    assert in_greenlet()
    return "later"

@pytest.fixture(scope="session")
def of_session():
    return in_greenlet()

@pytest.fixture(scope="module", autouse=True)
def asked_for_by_none():
    return in_greenlet()

class Test:
    @pytest.fixture
    def method(self, loop):
        assert in_greenlet()
        self.value = get_loop()
        return self

    TEST
        assert in_greenlet()
        assert method is self
        assert self.value is loop is get_loop()
        assert plain in (11, 12)
        assert VARIABLE.get() == LOCAL.value == "set"
        time.sleep(0.001)
        assert request.getfixturevalue("later") == "later"
        assert not of_session
        assert asked_for_by_none

def test_it_all_ended():
    of_tests = ["finalizer first", "finalizer", "halves"] * 2
    assert ENDED == [*of_tests, "module", *of_tests]
    assert VARIABLE.get() == "unset"
""".replace("TEST", test.format(arguments="loop, plain, method, of_session, asked_for_by_none, request"))
    )
    result.assert_outcomes(passed=5)


def test_timeout_ends_a_parked_test_where_it_waits(suite):
    result = suite(
        BACKEND
        + """
@pytest.fixture
def resource(loop, patched):  # the handler is older than the patch
    yield
    time.sleep(0.001)
    ENDED.append("resource")

@pytest.fixture
def endless(resource):
    time.sleep(1000)

@pytest.mark.greenio
class Test:
    @pytest.mark.timeout(0.5)
    def test_parked(self, resource):
        ENDED.clear()
        try:
            threading.Event().wait()
        finally:
            time.sleep(0.001)
            ENDED.append("finally")

    @pytest.mark.timeout(0.5)
    def test_fixture(self, endless): ...

    @pytest.mark.timeout(0.5)
    def test_busy(self, resource):
        while True:
            pass

    def test_the_loop_goes_on(self, resource, loop):
        assert get_loop() is loop
        assert await_(asyncio.sleep(0.001, ENDED)) == ["finally", "resource", "resource", "resource"]
        if hasattr(asyncio.Task, "cancelling"):
            assert not any(task.cancelling() for task in asyncio.all_tasks(loop))
""",
        "-p",
        "no:asyncio",
    )
    result.assert_outcomes(passed=2, failed=4, errors=2)
    assert result.stdout.str().count("Failed: Timeout") >= 6
    assert "Exception in callback" not in result.stdout.str()
    for loop in ("False", "True"):
        assert ">           threading.Event().wait()" in section(result, rf"Test.test_parked\[{loop}\]")


def test_outcomes_of_fixtures_that_anyio_drives(suite):
    result = suite(
        BACKEND.replace("[False, True]", "[False]")
        + """
pytestmark = pytest.mark.greenio
monkey.patch_all()

@pytest.fixture
def skipping(loop):
    time.sleep(0.001)
    pytest.skip("in a fixture")

def test_skip(skipping): ...

@pytest.fixture
def broken(loop, request):
    request.addfinalizer(lambda: ENDED.append(in_greenlet()))
    time.sleep(0.001)
    raise LookupError("in setup")

def test_error(broken): ...

@pytest.fixture
def broken_later(loop):
    yield
    time.sleep(0.001)
    raise LookupError("in teardown")

def test_error_at_the_end(broken_later): ...

@pytest.fixture
def broken_finalizer(loop, request):
    request.addfinalizer(lambda: ENDED.append("first"))
    request.addfinalizer(lambda: 1 / 0)

def test_error_of_a_finalizer(broken_finalizer): ...

@pytest.fixture
def twice(loop):
    yield
    yield

def test_error_of_two_yields(twice): ...

@pytest.fixture
def empty(loop):
    return
    yield

def test_error_of_no_yield(empty): ...

@pytest.fixture
def later(loop, request):
    return lambda: request.addfinalizer(lambda: ENDED.append("later"))

def test_finalizer_that_is_added_later(later):
    later()

def test_they_ended():
    assert ENDED == [True, "first", "later"]
"""
    )
    result.assert_outcomes(passed=5, skipped=1, errors=5)
    text = result.stdout.str()
    assert "in a fixture" in text
    assert "LookupError: in setup" in text
    assert "LookupError: in teardown" in text
    assert "ZeroDivisionError" in text


def test_other_backends_have_their_fixtures_as_ever(suite):
    """The test itself can only fail there, whether trio is installed or not."""
    result = suite(
        """
        FOUND = []

        @pytest.fixture
        def anyio_backend():
            return "trio"

        @pytest.fixture
        def plain():
            FOUND.append(in_greenlet())

        @pytest.mark.anyio
        @pytest.mark.greenio(green=True)
        @pytest.mark.xfail(raises=(RuntimeError, LookupError, ImportError), strict=True)
        async def test_trio(plain): ...

        def test_it_was_native():
            assert FOUND == [False]
        """
    )
    result.assert_outcomes(xfailed=1, passed=1)


def test_sync_fixtures_of_a_green_async_test_of_pytest_asyncio(suite):
    result = suite(
        """
        import pytest_asyncio
        monkey.patch_all()
        ENDED = []

        @pytest_asyncio.fixture
        async def address():
            async def answer(reader, writer):
                writer.write((await reader.read(100)).upper())
                writer.close()
            server = await asyncio.start_server(answer, "127.0.0.1", 0)
            yield server.sockets[0].getsockname()
            server.close()

        @pytest.fixture
        def client(address, request):
            request.addfinalizer(lambda: ENDED.append(in_greenlet()))
            with socket.create_connection(address, timeout=10) as sock:
                sock.sendall(b"hello")
                yield sock
                time.sleep(0.001)

        @pytest.mark.asyncio
        @pytest.mark.greenio(green=True)
        async def test_green(client):
            assert client.recv(100) == b"HELLO"

        @pytest.fixture
        def where():
            return in_greenlet()

        @pytest.mark.asyncio
        @pytest.mark.greenio
        async def test_native(where):
            assert not where

        def test_it_ended():
            assert ENDED == [True]
        """
    )
    result.assert_outcomes(passed=3)


@KINDS
def test_servers_on_the_loop_of_anyio(suite, test):
    result = suite(
        BACKEND
        + """
import requests

monkey.patch_all()
CALLS = []

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        ENDED.append(asyncio.get_running_loop())
        await send({"type": "lifespan.shutdown.complete"})
        return
    CALLS.append(asyncio.get_running_loop())
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["path"].encode()})

@pytest.fixture
def page(serve, loop):
    return serve(app) + "/page"  # a green fixture

class Test:
    TEST
        assert greenio_loop is loop is get_loop()
        url = serve.start(app)
        url = WAIT
        assert requests.get(url + "/1", timeout=5).text == "/1"
        assert requests.get(page, timeout=5).text == "/page"
        assert CALLS[-2:] == [loop] * 2

def test_it_all_ended():
    assert len(ENDED) == 4 and ENDED[0] is ENDED[1] and ENDED[2] is ENDED[3]
""".replace("TEST", test.format(arguments="greenio_loop, loop, serve, page")).replace(
            "WAIT", "await url" if "async def" in test else "await_(url)"
        )
    )
    result.assert_outcomes(passed=3)


def test_serve_says_where_it_does_not_serve(suite):
    result = suite(
        """
        @pytest.fixture
        def anyio_backend():
            return "trio"

        @pytest.mark.greenio
        def test_served(anyio_backend, serve): ...
        """
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*UsageError: *on asyncio's loop, or uvloop's*another backend*"])
