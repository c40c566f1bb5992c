"""The pytest plugin, by test suites that use it, each in a process of its own; on whatever versions are installed."""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path

import pytest

from suites import ASYNC_FIXTURE, STRICT, WITH_AND_WITHOUT, section

pytest_plugins = ["pytester", "suites"]


@WITH_AND_WITHOUT
def test_sync_test_runs_green_on_the_loop_of_its_fixtures(suite, arguments):
    result = suite(
        ASYNC_FIXTURE
        + """
VARIABLE = contextvars.ContextVar("VARIABLE", default="unset")
ENDED = []

@fixture
async def number():
    await asyncio.sleep(0.001)
    yield 7, asyncio.get_running_loop()
    await asyncio.sleep(0.001)
    ENDED.append("number")

@fixture
async def late():
    await asyncio.sleep(0.001)
    return asyncio.get_running_loop()

@pytest.fixture
def halves(number):
    assert in_greenlet()
    assert get_loop() is number[1]
    token = VARIABLE.set("set")
    await_(asyncio.sleep(0.001))
    yield "halves"
    assert in_greenlet()
    VARIABLE.reset(token)
    await_(asyncio.sleep(0.001))
    ENDED.append("halves")

@pytest.fixture
def plain(request, halves):
    def finalize():
        assert in_greenlet()
        assert get_loop() is loop
        ENDED.append("finalizer")
    loop = get_loop()
    request.addfinalizer(finalize)
    return loop

@pytest.mark.greenio
def test_green(number, halves, plain, greenio_loop, request):
    assert in_greenlet()
    assert get_loop() is number[1] is plain is greenio_loop
    assert VARIABLE.get() == "set"
    assert await_(asyncio.sleep(0.001, halves)) == "halves"
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
    assert request.getfixturevalue("late") is get_loop()
    request.addfinalizer(lambda: ENDED.append(in_greenlet()))

def test_it_all_ended():
    assert ENDED == [True, "finalizer", "halves", "number"]
    assert VARIABLE.get() == "unset"
    assert not in_greenlet()

@pytest.mark.greenio(green=True)
async def test_async_code_may_block(number, patched):
    assert asyncio.get_running_loop() is number[1]
    turns = []
    asyncio.get_running_loop().call_soon(turns.append, 1)
    time.sleep(0.02)
    assert turns
    assert in_greenlet()

@pytest.mark.greenio
async def test_async_code_as_ever(number):
    assert asyncio.get_running_loop() is number[1]
    assert not in_greenlet()
""",
        *arguments,
    )
    result.assert_outcomes(passed=4)


@WITH_AND_WITHOUT
def test_scopes(suite, arguments):
    result = suite(
        ASYNC_FIXTURE
        + """
LOOPS, ENDED = {}, []

@pytest.fixture(scope="session")
def whole():
    assert in_greenlet()
    LOOPS["session"] = get_loop()
    yield
    assert in_greenlet()
    assert get_loop() is LOOPS["session"]
    assert ENDED == ["class", "module"]

@pytest.fixture(scope="module")
def of_module():
    assert in_greenlet()
    LOOPS["module"] = get_loop()
    yield get_loop()
    assert in_greenlet()
    assert get_loop() is LOOPS["module"]
    ENDED.append("module")

@pytest.fixture
def of_test():
    return get_loop()

@pytest.mark.greenio(loop_scope="class")
class TestClass:
    @pytest.fixture(scope="class")
    def of_class(self):
        LOOPS["class"] = get_loop()
        yield get_loop()
        assert get_loop() is LOOPS["class"]
        ENDED.append("class")

    @pytest.fixture
    def own(self):
        self.value = get_loop()

    def test_one(self, whole, of_module, of_class, of_test, own, greenio_loop):
        assert self.value is of_class is of_test is greenio_loop is get_loop()
        assert of_module is not of_class
        assert len({id(loop) for loop in LOOPS.values()}) == 3

    def test_two(self, of_class):
        assert of_class is get_loop()
        assert ENDED == []

@pytest.mark.greenio
def test_function(of_module, of_test):
    assert of_test is get_loop() is not of_module
    assert not of_module.is_closed()
    assert LOOPS["class"].is_closed()

@pytest.mark.greenio(loop_scope="module")
def test_module(of_module, of_test):
    assert of_module is get_loop() is of_test

@pytest.fixture(scope="module")
def asked_for_late():
    assert in_greenlet()
    await_(asyncio.sleep(0.001))
    return get_loop()

@pytest.mark.greenio
def test_broader_fixture_of_a_test_that_runs(of_module, patched, request):
    assert request.getfixturevalue("asked_for_late") is of_module is not get_loop()
    assert await_(asyncio.sleep(0.001, 5)) == 5
""",
        *arguments,
    )
    result.assert_outcomes(passed=5)


def test_loop_scope_of_the_asyncio_mark_and_async_tests_beside(suite):
    result = suite(
        """
        import pytest_asyncio
        pytestmark = pytest.mark.asyncio(loop_scope="module")

        @pytest_asyncio.fixture(loop_scope="module", scope="module")
        async def server():
            async def answer(reader, writer):
                writer.write(await reader.read(100))
                writer.close()
            server = await asyncio.start_server(answer, "127.0.0.1", 0)
            yield server.sockets[0].getsockname(), asyncio.get_running_loop()
            server.close()
            await server.wait_closed()

        async def test_async(server):
            assert asyncio.get_running_loop() is server[1]

        @pytest.mark.greenio
        def test_green(server, patched):
            assert get_loop() is server[1]
            with socket.create_connection(server[0]) as sock:
                sock.sendall(b"hello")
                assert sock.recv(100) == b"hello"

        @pytest.mark.greenio(green=True)
        async def test_async_and_green(server, patched):
            assert asyncio.get_running_loop() is server[1]
            with socket.create_connection(server[0]) as sock:
                sock.sendall(b"hello")
                assert sock.recv(100) == b"hello"
        """
    )
    result.assert_outcomes(passed=3)


def test_auto_modes(suite):
    result = suite(
        """
        @pytest.fixture
        async def value():
            await asyncio.sleep(0.001)
            return asyncio.get_running_loop()

        def test_green(value):
            assert get_loop() is value

        async def test_async(value):
            assert asyncio.get_running_loop() is value
            assert not in_greenlet()

        @pytest.mark.greenio(green=False)
        def test_native():
            assert not in_greenlet()

        def setup_module():
            assert in_greenlet()

        class TestXunit:
            def setup_method(self):
                self.loop = get_loop()

            def teardown_method(self):
                assert in_greenlet()

            def test_method(self):
                assert get_loop() is self.loop

        class Case(unittest.TestCase):
            @classmethod
            def setUpClass(cls):
                assert in_greenlet()

            def setUp(self):
                self.addCleanup(self.clean)
                assert in_greenlet()

            def clean(self):
                assert in_greenlet()

            def test_method(self):
                self.assertEqual(await_(asyncio.sleep(0.001, 3)), 3)

            def test_failing(self):
                self.assertTrue(False)

        class AsyncCase(unittest.IsolatedAsyncioTestCase):
            async def test_method(self):
                await asyncio.sleep(0)
                assert not in_greenlet()
        """,
        ini="asyncio_mode = auto\ngreenio_mode = auto\n",
    )
    result.assert_outcomes(passed=6, failed=1)


@WITH_AND_WITHOUT
def test_async_methods_of_unittest(suite, arguments):
    result = suite(
        """
        class Case(unittest.IsolatedAsyncioTestCase):
            async def asyncSetUp(self):
                self.loop = asyncio.get_running_loop()

            @pytest.mark.greenio(green=True)
            @pytest.mark.usefixtures("patched")
            async def test_green(self):
                turns = []
                self.loop.call_soon(turns.append, None)
                time.sleep(0.01)
                assert turns
                assert get_loop() is self.loop

            @pytest.mark.greenio(green=True)
            async def test_fails(self):
                self.assertFalse(in_greenlet())

            @pytest.mark.loop_lag(0.05)
            async def test_holds_the_loop(self):
                time.sleep(0.2)

            async def test_native(self):
                assert not in_greenlet()
                assert "test_green" not in vars(self)
        """,
        *arguments,
    )
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(["*AssertionError: True is not false", "the loop was held once*"])


def test_outcomes_as_usual(suite):
    result = suite(
        """
        pytestmark = pytest.mark.greenio

        @pytest.mark.parametrize("number", [1, 2])
        def test_parametrized(number):
            await_(asyncio.sleep(0.001))
            assert number in (1, 2)

        @pytest.mark.xfail(raises=ZeroDivisionError, strict=True)
        def test_xfail():
            await_(asyncio.sleep(0.001))
            1 / 0

        @pytest.mark.skip
        def test_skip(): ...

        @pytest.fixture
        def skipping():
            pytest.skip("in a fixture")

        def test_skip_inside(skipping): ...

        def test_skip_later():
            await_(asyncio.sleep(0.001))
            pytest.skip("in the test")

        @pytest.fixture
        def broken():
            await_(asyncio.sleep(0.001))
            raise LookupError("in setup")

        def test_error(broken): ...

        def below():
            await_(asyncio.sleep(0.001))
            assert 1 == 2

        def test_failing():
            below()

        @pytest.fixture
        def broken_later():
            yield
            raise LookupError("in teardown")

        def test_error_at_the_end(broken_later): ...

        @pytest.fixture
        def twice():
            yield
            yield

        def test_error_of_two_yields(twice): ...

        def test_not_reached(): ...
        """,
    )
    result.assert_outcomes(passed=5, xfailed=1, skipped=3, failed=1, errors=3)
    text = result.stdout.str()
    assert "in a fixture" in text
    assert "fixture function has more than one 'yield'" in text
    failure = section(result, "test_failing")
    assert "run_until_complete" not in failure  # nor any other line that is not the user's
    assert "greenio/" not in failure
    error = section(result, "ERROR at setup of test_error")
    assert "raise LookupError" in error
    assert "run_until_complete" not in error
    assert "_pieces.py" not in error


def test_stop_at_the_first_failure(suite):
    result = suite(
        """
        pytestmark = pytest.mark.greenio

        def test_failing():
            assert 0

        def test_not_reached(): ...
        """,
        "-x",
    )
    result.assert_outcomes(failed=1)


POLICY = """
@pytest.fixture(scope="session")
def event_loop_policy():
    import uvloop
    return uvloop.EventLoopPolicy()
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_timeout_ends_a_parked_test_where_it_waits(suite, loop):
    source = """
        ENDED = []
        pytestmark = pytest.mark.greenio
        monkey.patch_all()

        @pytest.fixture
        def resource(greenio_loop):
            assert type(greenio_loop).__module__.startswith(LOOP)
            yield
            time.sleep(0.001)
            ENDED.append("resource")

        def waits_here():
            try:
                time.sleep(1000)
            finally:
                ENDED.append("finally")

        @pytest.mark.timeout(0.5, method="signal", func_only=True)
        def test_parked(resource):
            waits_here()

        @pytest.mark.timeout(0.5, method="signal", func_only=True)
        def test_awaiting(resource):
            await_(asyncio.Event().wait())

        @pytest.mark.timeout(0.5, method="signal", func_only=True)
        def test_not_parked(resource):
            monkey.original("time", "sleep")(1000)

        @pytest.mark.timeout(0.5, method="signal", func_only=True)
        def test_held_by_other_code(resource):
            async def hold():
                monkey.original("time", "sleep")(1000)
            greenio.get_loop().call_soon(lambda: asyncio.ensure_future(hold()))
            time.sleep(1000)

        def test_after():
            assert ENDED == ["finally", *["resource"] * 4]
        """
    result = suite(
        f"LOOP = {loop!r}\n" + textwrap.dedent(source),
        *(("-p", "no:asyncio") if loop == "uvloop" else ()),
        ini="greenio_loop_factory = uvloop\n" if loop == "uvloop" else "",
    )
    result.assert_outcomes(failed=4, passed=1)
    text = section(result, "test_parked")
    assert ">           time.sleep(1000)" in text
    assert "Timeout" in text
    assert "_green.py" not in text


def test_xdist(suite):
    pytest.importorskip("xdist")
    result = suite(
        """
        @pytest.fixture(scope="module")
        def of_module():
            return get_loop()

        @pytest.mark.greenio
        @pytest.mark.parametrize("number", range(6))
        def test_green(number, of_module):
            await_(asyncio.sleep(0.001))
        """,
        "-n2",
    )
    result.assert_outcomes(passed=6)


def test_debugger_at_the_failure(suite):
    result = suite(
        """
        @pytest.mark.greenio
        def test_failing():
            value = await_(asyncio.sleep(0.001, 41))
            assert value == 42
        """,
        "--pdb",
        stdin=b"p value + 1000\nq\n",
    )
    result.stdout.fnmatch_lines(["*(Pdb) 1041*"])


@WITH_AND_WITHOUT
def test_fixtures_may_have_any_name(suite, arguments):
    """Those of the plugin's own parameters, too."""
    result = suite(
        ASYNC_FIXTURE
        + """
@pytest.fixture
def fn():
    return "fn"

@fixture
async def around(fn):
    return fn + " around"

@pytest.fixture
def green(around):
    yield around + " green"

@pytest.fixture
def contexts(green):
    return green + " contexts"

@pytest.fixture
def scoped(contexts):
    return contexts + " scoped"

@pytest.mark.greenio
def test_green(fn, around, green, contexts, scoped):
    assert in_greenlet()
    assert scoped == "fn around green contexts scoped"

@pytest.mark.greenio(green=True)
async def test_async(fn, around, green, contexts, scoped):
    assert scoped == "fn around green contexts scoped"
""",
        *arguments,
    )
    result.assert_outcomes(passed=2)


def test_debugger_in_the_test(suite):
    result = suite(
        """
        @pytest.mark.greenio
        def test_breaking():
            value = await_(asyncio.sleep(0.001, 41))
            breakpoint()
            assert value == 41
        """,
        stdin=b"p value + 1000\nc\n",
    )
    result.stdout.fnmatch_lines(["*(Pdb) 1041*"])
    result.assert_outcomes(passed=1)


def test_trace(suite):
    result = suite(
        """
        @pytest.mark.greenio
        def test_traced():
            value = 40
            assert in_greenlet()
        """,
        "--trace",
        stdin=b"n\np value + 1000\nc\n",
    )
    result.stdout.fnmatch_lines(["*1040*"])


def test_interrupt_ends_a_parked_test(suite):
    result = suite(
        """
        import os
        import signal

        @pytest.mark.greenio
        def test_interrupted(patched, capsys):
            get_loop().call_later(0.05, os.kill, os.getpid(), signal.SIGINT)
            try:
                time.sleep(1000)
            finally:
                with capsys.disabled():
                    print("finally")
        """,
    )
    assert "finally" in result.stdout.str()
    assert "KeyboardInterrupt" in result.stdout.str()
    assert result.ret == pytest.ExitCode.INTERRUPTED


@WITH_AND_WITHOUT
def test_serve(suite, arguments):
    result = suite(
        """
        import functools

        import requests

        CALLS, KEPT = [], []

        async def asgi(scope, receive, send):
            if scope["type"] == "lifespan":
                while True:
                    message = await receive()
                    CALLS.append(message["type"])
                    await send({"type": message["type"] + ".complete"})
                    if message["type"] == "lifespan.shutdown":
                        return
            await asyncio.sleep(0.001)
            CALLS.append(asyncio.get_running_loop())
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"asgi"})

        def wsgi(environment, start_response):
            time.sleep(0.001)
            CALLS.append(get_loop())
            length = int(environment["CONTENT_LENGTH"] or 0)
            body = environment["wsgi.input"].read(length)
            start_response("201 Created", [("X-Path", environment["PATH_INFO"]), ("X-Q", environment["QUERY_STRING"]),
                                           ("X-Agent", environment["HTTP_USER_AGENT"])])
            yield b"you said "
            yield body

        class Upper(asyncio.Protocol):
            def connection_made(self, transport):
                self.transport = transport

            def data_received(self, data):
                self.transport.write(data.upper())

        @pytest.mark.greenio
        def test_asgi(patched, serve):
            url = serve(asgi)
            with requests.Session() as session:
                assert [session.get(url, timeout=10).text for _ in range(3)] == ["asgi"] * 3
            assert CALLS == ["lifespan.startup", get_loop(), get_loop(), get_loop()]

        class Middleware:
            def __init__(self, app):
                self.app = app

            def __call__(self, scope, receive, send):
                return self.app(scope, receive, send)

        @pytest.mark.greenio
        def test_asgi_by_its_parameters(patched, serve):
            for app in (Middleware(asgi), functools.partial(Middleware(asgi))):
                assert requests.get(serve(app), timeout=10).text == "asgi"

        @pytest.mark.greenio
        def test_wsgi(patched, serve):
            assert CALLS.pop() == "lifespan.shutdown"
            answer = requests.post(serve(wsgi) + "/a%20b/%C3%A9?c=d", data=b"hello", timeout=10)
            assert answer.status_code == 201
            assert answer.content == b"you said hello"
            assert answer.headers["x-path"].encode("latin-1").decode() == "/a b/\\u00e9"
            assert answer.headers["x-q"] == "c=d"
            assert answer.headers["x-agent"].startswith("python-requests")
            assert CALLS[-1] is get_loop()

        @pytest.mark.greenio
        def test_protocol(patched, serve):
            url = serve(Upper)
            host, port = url.removeprefix("tcp://").split(":")
            with socket.create_connection((host, int(port))) as sock:
                sock.sendall(b"abc")
                assert sock.recv(10) == b"ABC"

        def failing(environment, start_response):
            raise LookupError

        @pytest.mark.greenio
        def test_what_fails(patched, serve, caplog):
            assert requests.get(serve(failing), timeout=10).status_code == 500
            with pytest.raises(TypeError, match="cannot tell what"):
                serve(object())
            with pytest.raises(TypeError, match="say so by kind="):
                serve(lambda one: one)
            async def broken(scope, receive, send):
                await receive()
                await send({"type": "lifespan.startup.failed", "message": ""})
            with pytest.raises(RuntimeError, match="failed in its lifespan"):
                serve(broken)
            def unmade():
                raise LookupError("unmade")
            with socket.create_connection(serve(unmade).rpartition("/")[2].split(":")) as sock:
                assert sock.recv(1) == b""
            assert "unmade" in caplog.text

        @pytest.fixture
        def address(serve):
            return serve(Upper)

        @pytest.mark.greenio
        async def test_async(serve, address):
            with pytest.raises(RuntimeError, match="await serve.start"):
                serve(Upper)
            for url in (address, await serve.start(Upper)):
                reader, writer = await asyncio.open_connection(*url.removeprefix("tcp://").split(":"))
                writer.write(b"abc")
                assert await reader.read(10) == b"ABC"
                writer.close()
                await writer.wait_closed()

        @pytest.mark.greenio
        def test_requests_under_way_are_not_waited_for(patched, serve):
            async def endless(scope, receive, send):
                if scope["type"] == "http":
                    CALLS.append("endless")
                    await asyncio.Event().wait()
            class Silent(asyncio.Protocol):
                def connection_made(self, transport):
                    transport.write(b"x" * 10_000_000)
            for app in (endless, Silent):
                host, port = serve(app).rpartition("/")[2].split(":")
                sock = socket.create_connection((host, int(port)))
                KEPT.append(sock)
                sock.sendall(b"GET / HTTP/1.1\\r\\nHost: here\\r\\n\\r\\n")
            while CALLS[-1] != "endless":
                await_(asyncio.sleep(0))
            KEPT[-1].recv(1)

        def test_connections_are_closed():
            for sock in KEPT:
                sock.close()

        @pytest.mark.greenio
        def test_missing(serve, monkeypatch):
            monkeypatch.setitem(__import__("sys").modules, "uvicorn", None)
            with pytest.raises(RuntimeError, match="pip install uvicorn"):
                serve(asgi)
        """,
        *arguments,
    )
    result.assert_outcomes(passed=9)


@pytest.mark.parametrize("ini", ["", "greenio_loop_factory = uvloop\n"], ids=["asyncio", "uvloop"])
def test_serve_ends_while_connections_are_made(suite, ini):
    """However far the loop has come with a connection when the test ends."""
    if ini:
        pytest.importorskip("uvloop")
    result = suite(
        """
        import gc

        MADE, LOST, KEPT = [], [], []

        class Counted(asyncio.Protocol):
            def connection_made(self, transport):
                MADE.append(transport)

            def connection_lost(self, error):
                LOST.append(self)

        @pytest.mark.greenio
        @pytest.mark.parametrize("kept", [False, True])
        @pytest.mark.parametrize("turns", range(8))
        def test_connects(serve, turns, kept):
            host, port = serve(Counted).rpartition("/")[2].split(":")
            sock = socket.create_connection((host, int(port)))
            for _ in range(turns):
                await_(asyncio.sleep(0))
            if kept:
                KEPT.append(sock)
            else:
                sock.close()

        def test_nothing_is_left():
            gc.collect()
            assert len(MADE) == len(LOST) > 0
            assert all(transport.is_closing() for transport in MADE)
            for sock in KEPT:
                sock.settimeout(5)
                try:
                    assert sock.recv(1) == b""
                except ConnectionResetError:
                    pass
                sock.close()
        """,
        *("-p", "no:asyncio"),
        ini=ini,
        timeout=20,
    )
    result.assert_outcomes(passed=17)


def test_clients(suite):
    """Sync clients of frameworks, in a green test."""
    result = suite(
        """
        import django
        from django.conf import settings
        from django.http import HttpResponse
        from django.urls import path

        @pytest.fixture(scope="session")
        def configured():
            settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="x")
            django.setup()

        def view(request):
            assert in_greenlet()
            time.sleep(0.001)
            return HttpResponse(str(await_(asyncio.sleep(0.001, 5))))

        async def async_view(request):
            await asyncio.sleep(0.001)
            return HttpResponse("async")

        urlpatterns = [path("sync", view), path("async", async_view)]

        @pytest.mark.greenio
        def test_django(configured, patched):
            from django.test import Client
            turns = []
            get_loop().call_soon(turns.append, 1)
            client = Client()
            assert client.get("/sync").content == b"5"
            assert client.get("/async").content == b"async"
            assert turns

        @pytest.mark.greenio
        def test_django_served(configured, patched, serve):
            import requests
            from django.core.asgi import get_asgi_application
            from django.core.wsgi import get_wsgi_application
            assert requests.get(serve(get_wsgi_application()) + "/sync", timeout=10).text == "5"
            assert requests.get(serve(get_asgi_application()) + "/async", timeout=10).text == "async"

        def use_testclient():
            # Returns the threads that work for the client.
            from starlette.applications import Starlette
            from starlette.responses import PlainTextResponse
            from starlette.routing import Route, WebSocketRoute
            from starlette.testclient import TestClient

            async def page(request):
                await asyncio.sleep(0.05)
                threads.add(threading.get_native_id())
                return PlainTextResponse("page")

            def sync_page(request):
                time.sleep(0.001)
                threads.add(threading.get_native_id())
                return PlainTextResponse("sync page")

            async def upper(websocket):
                await websocket.accept()
                await websocket.send_text((await websocket.receive_text()).upper())
                threads.add(threading.get_native_id())
                await websocket.close()

            threads, turns = set(), []
            app = Starlette(routes=[Route("/", page), Route("/sync", sync_page), WebSocketRoute("/upper", upper)])
            get_loop().call_soon(turns.append, 1)
            with TestClient(app) as client:
                assert client.get("/").text == "page"
                assert client.get("/sync").text == "sync page"
                with client.websocket_connect("/upper") as websocket:
                    websocket.send_text("abc")
                    assert websocket.receive_text() == "ABC"
            assert TestClient(app).get("/").text == "page"
            assert turns
            return threads

        @pytest.mark.greenio
        def test_starlette(patched):
            assert threading.get_native_id() not in use_testclient()

        @pytest.mark.greenio
        @pytest.mark.patched(green_threads=True)
        def test_starlette_without_a_thread(patched):
            assert use_testclient() == {threading.get_native_id()}
        """,
        "-W",
        "default",
    )
    result.assert_outcomes(passed=4, warnings=None)


def test_loop_lag(suite):
    result = suite(
        """
        def holds(seconds):
            time.sleep(seconds)

        @pytest.mark.greenio
        @pytest.mark.loop_lag(0.1)
        def test_green_that_holds():
            holds(0.3)

        @pytest.mark.asyncio
        @pytest.mark.loop_lag(0.1)
        async def test_async_that_holds():
            await asyncio.sleep(0.01)
            holds(0.3)
            await asyncio.sleep(0.01)

        @pytest.mark.greenio
        @pytest.mark.loop_lag(1.5)
        def test_green_that_parks(patched):
            holds(0.2)

        @pytest.mark.asyncio
        async def test_found(loop_lag):
            loop_lag.limit = 0.1
            holds(0.3)
            await asyncio.sleep(0.01)
            (held,) = loop_lag.held
            assert 0.1 <= held.seconds < 5
            assert "holds(0.3)" in held.stack
            loop_lag.held.clear()

        @pytest.mark.greenio
        @pytest.mark.loop_lag(0.01)
        def test_own_failure_comes_first():
            holds(0.1)
            assert not "own failure"
        """
    )
    result.assert_outcomes(passed=2, failed=3)
    for name in ("test_green_that_holds", "test_async_that_holds"):
        failure = section(result, name)
        assert "the loop was held once for longer than 0.1 s, at most for 0." in failure
        assert _calls(failure) == [name, "holds"]
    assert "own failure" in section(result, "test_own_failure_comes_first")


@WITH_AND_WITHOUT
def test_loop_lag_of_fixtures(suite, arguments):
    result = suite(
        ASYNC_FIXTURE
        + """
def holds(seconds):
    time.sleep(seconds)

@pytest.fixture
def setup():
    holds(0.3)

@pytest.fixture
def teardown():
    yield
    holds(0.3)

@pytest.fixture
def finalizer(request):
    request.addfinalizer(lambda: holds(0.3))

@fixture
async def async_setup():
    holds(0.3)
    return 1

class TestMarked:
    pytestmark = [pytest.mark.greenio, pytest.mark.loop_lag(0.1)]

    @fixture
    async def async_teardown(self):
        yield self
        holds(0.3)

    def test_setup(self, setup):
        pass

    def test_teardown(self, teardown):
        pass

    def test_finalizer(self, finalizer):
        pass

    def test_async_setup(self, async_setup):
        assert async_setup == 1

    def test_async_teardown(self, async_teardown):
        assert async_teardown.test_setup

    def test_late(self, request):
        assert request.getfixturevalue("async_setup") == 1
        assert request.getfixturevalue("async_teardown").test_setup

    async def test_async(self, async_setup, async_teardown):
        assert async_teardown.test_setup

    def test_nothing(self):
        pass

class TestMethods:
    pytestmark = [pytest.mark.greenio, pytest.mark.loop_lag(0.1)]

    def setup_method(self):
        holds(0.3)

    def test_method(self):
        pass

@pytest.mark.greenio
def test_not_marked(setup, teardown, async_setup):
    pass
""",
        *arguments,
    )
    result.assert_outcomes(passed=5, failed=5, errors=5)
    for name in ("setup", "async_setup", "late", "async"):
        assert _calls(section(result, f"TestMarked.test_{name}"))[-2:] in (["setup", "holds"], ["async_setup", "holds"])
    assert _calls(section(result, "TestMethods.test_method"))[-2:] == ["setup_method", "holds"]
    for name in ("teardown", "finalizer", "async_teardown", "late", "async"):
        calls = _calls(section(result, f"ERROR at teardown of TestMarked.test_{name}"))
        assert calls in (["teardown", "holds"], ["<lambda>", "holds"], ["async_teardown", "holds"])


def _calls(failure):
    """The functions of the stack that a failure shows."""
    return [line.rpartition(" ")[2] for line in failure.splitlines() if "File " in line]


@pytest.mark.parametrize("arguments", ["'x'", "0", "float('inf')", "seconds=1"])
def test_loop_lag_of_no_seconds(suite, arguments):
    result = suite(
        f"""
        @pytest.mark.loop_lag({arguments})
        def test_it():
            pass
        """
    )
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: test_it.py::test_it: mark.loop_lag takes a number of seconds, more than 0, *"])


def test_patched(suite):
    result = suite(
        """
        @pytest.mark.greenio
        @pytest.mark.patched("time", "select")
        def test_groups(patched):
            assert monkey.is_patched("time")
            assert not monkey.is_patched("socket")

        @pytest.mark.patched(ssl=False)
        def test_choices(patched):
            assert monkey.is_patched("time")
            assert not monkey.is_patched("ssl")

        def test_all_by_default(patched):
            assert monkey.is_patched("ssl")

        def test_nothing_is_left():
            assert not monkey.is_patched("time")
        """
    )
    result.assert_outcomes(passed=4)


def test_anyio(suite):
    """Its async fixtures live on a loop of its own; a green test of theirs runs there."""
    result = suite(
        """
        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        @pytest.fixture
        async def number(anyio_backend):
            await asyncio.sleep(0.001)
            yield 7, asyncio.get_running_loop()

        @pytest.mark.anyio
        async def test_async(number):
            assert asyncio.get_running_loop() is number[1]

        @pytest.mark.greenio
        def test_green(number):
            assert get_loop() is number[1]
            assert await_(asyncio.sleep(0.001, 5)) == 5

        @pytest.mark.anyio
        @pytest.mark.greenio(green=True)
        async def test_async_and_green(number, patched):
            assert asyncio.get_running_loop() is number[1]
            time.sleep(0.001)
            assert in_greenlet()
        """
    )
    result.assert_outcomes(passed=3)


def test_loops_of_its_own(suite):
    ini = "greenio_loop_factory = {}\n"
    source = """
        @pytest.mark.greenio
        def test_kind(greenio_loop, patched):
            assert get_loop() is greenio_loop
            assert type(greenio_loop).__module__.startswith({!r})
            asyncio.get_event_loop_policy().set_event_loop(None)
            await_(asyncio.sleep(0.001))
            time.sleep(3600 if isinstance(greenio_loop, VirtualClockLoop) else 0.001)
        """
    for name, module in (("", "asyncio"), ("uvloop", "uvloop"), ("greenio.testing.VirtualClockLoop", "greenio")):
        result = suite(source.format(module), "-p", "no:asyncio", ini=ini.format(name))
        result.assert_outcomes(passed=1)
    result = suite(source.format(""), "-p", "no:asyncio", ini=ini.format("nothing.like.that"))
    result.assert_outcomes(errors=1)
    assert "write `uvloop`, or the dotted name of a callable" in result.stdout.str()


def test_policy_of_pytest_asyncio(suite):
    result = suite(
        POLICY
        + textwrap.dedent(
            """
            @pytest.mark.greenio
            def test_kind(greenio_loop):
                assert type(greenio_loop).__module__.startswith("uvloop")
                assert get_loop() is greenio_loop
                assert await_(asyncio.sleep(0.001, 5)) == 5
            """
        ),
        "-W",
        "default",
    )
    result.assert_outcomes(passed=1, warnings=None)


def test_loop_factories_of_pytest_asyncio(suite):
    plugin = pytest.importorskip("pytest_asyncio.plugin")
    if not hasattr(plugin, "_asyncio_loop_factory"):
        pytest.skip("this pytest-asyncio has no hook for loop factories")
    result = suite(
        """
        import pytest_asyncio
        KINDS = []

        @pytest_asyncio.fixture
        async def loop_of_fixture():
            return asyncio.get_running_loop()

        @pytest.mark.greenio
        def test_green(loop_of_fixture):
            assert get_loop() is loop_of_fixture
            KINDS.append(type(get_loop()).__module__.partition(".")[0])

        @pytest.mark.asyncio
        async def test_async(loop_of_fixture):
            assert asyncio.get_running_loop() is loop_of_fixture

        def test_both():
            assert KINDS == ["asyncio", "uvloop"]
        """,
        conftest="""
            import asyncio
            import uvloop

            def pytest_asyncio_loop_factories(config, item):
                return {"stock": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
        """,
    )
    result.assert_outcomes(passed=5)


def test_hypothesis(suite):
    result = suite(
        """
        from hypothesis import given, settings
        from hypothesis import strategies

        @pytest.mark.greenio
        @given(strategies.integers())
        @settings(max_examples=10, deadline=None)
        def test_green(number):
            assert await_(asyncio.sleep(0, number)) == number
            assert in_greenlet()

        @pytest.mark.greenio
        @pytest.mark.asyncio
        @given(strategies.integers())
        @settings(max_examples=10, deadline=None)
        async def test_async(number):
            await asyncio.sleep(0)
            assert not in_greenlet()

        @pytest.mark.greenio
        @given(strategies.integers())
        @settings(max_examples=100, deadline=None, database=None)
        def test_found(number):
            await_(asyncio.sleep(0))
            assert number < 10
        """
    )
    result.assert_outcomes(passed=2, failed=1)
    assert "number=10" in result.stdout.str()


def test_suites_that_do_not_use_it(suite):
    result = suite(
        """
        import sys

        def test_native():
            assert not in_greenlet()
            assert not monkey.is_patched("time")

        def test_nothing_was_started(request):
            assert "greenio_loop" not in request.fixturenames
            assert threading.active_count() == 1
        """,
    )
    result.assert_outcomes(passed=2)


def test_plugin_loads_no_patches(pytester):
    pytester.makepyfile("def test(): import sys; assert 'greenio.pytest_plugin' in sys.modules; "
                        "assert 'greenio.monkey' not in sys.modules; assert 'uvicorn' not in sys.modules")  # fmt: skip
    pytester.makeini(f"[pytest]\nfilterwarnings = error\n{STRICT}")
    pytester.run(sys.executable, "-m", "pytest", "-p", "no:cacheprovider").assert_outcomes(passed=1)


GUIDE = Path(__file__).parent.parent / "docs" / "testing.md"


def test_programs_of_the_guide(suite):
    programs = re.findall(r"^<!-- test: pytest -->\n```python\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(programs) == 6
    result = suite("", **{f"test_{number}": program for number, program in enumerate(programs)})
    result.assert_outcomes(passed=7)


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ("greenio(loop='module')", "takes green= and loop_scope="),
        ("greenio(loop_scope='galaxy')", "no loop scope is called 'galaxy'"),
    ],
)
def test_wrong_marks(suite, mark, message):
    result = suite(f"@pytest.mark.{mark}\ndef test(): ...\n")
    assert message in result.stdout.str() + result.stderr.str()
    assert result.ret


def test_wrong_mode(suite):
    result = suite("", ini="greenio_mode = always\n")
    assert "there are strict and auto" in result.stdout.str() + result.stderr.str()
