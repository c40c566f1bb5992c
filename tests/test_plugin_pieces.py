"""What the pieces of a green test share: they are all of one thread, that of pytest."""

from __future__ import annotations

from suites import WITH_AND_WITHOUT

pytest_plugins = ["pytester", "suites"]


@WITH_AND_WITHOUT
def test_thread_local_values_of_fixtures_and_tests(suite, arguments):
    """As a scoped_session's, or Django's connections."""
    result = suite(
        """
        monkey.patch_all()
        LOCAL = threading.local()
        LOCAL.module = "imported"

        @pytest.fixture(scope="module")
        def of_module():
            LOCAL.of_module = "set up"
            yield
            assert LOCAL.of_module == "changed twice"

        @pytest.fixture
        def of_test(of_module):
            LOCAL.value = "set up"
            time.sleep(0.001)
            yield
            assert LOCAL.value == "changed"
            del LOCAL.value

        @pytest.mark.greenio
        def test_green(of_test):
            time.sleep(0.001)
            assert LOCAL.module == "imported"
            assert LOCAL.value == LOCAL.of_module == "set up"
            LOCAL.value = LOCAL.of_module = "changed"
            assert threading.current_thread() is threading.main_thread()
            # What the test starts is another caller, as in a thread.
            other = greenio.spawn(lambda: (hasattr(LOCAL, "value"), threading.get_ident()))
            has_value, ident = await_(other)
            assert not has_value
            assert ident != threading.get_ident()

        def test_native():
            assert LOCAL.of_module == "changed"
            assert not hasattr(LOCAL, "value")
            LOCAL.of_module = "changed twice"

        class TestCase(unittest.TestCase):
            @classmethod
            def setUpClass(cls):
                LOCAL.of_class = cls

            @pytest.mark.greenio
            def test_method(self):
                assert LOCAL.of_class is type(self)
        """,
        *arguments,
    )
    result.assert_outcomes(passed=3)


# A library that runs a loop in a greenlet of its own, as sync Playwright does.
LIBRARY = """
from greenlet import getcurrent, greenlet

class Client:
    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.stop = self.loop.create_future()
        self.fiber = greenlet(self.run)
        self.call(self.answer("started"))

    def run(self):
        try:
            self.loop.run_until_complete(self.stop)
        finally:
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()

    def call(self, coroutine):
        me = getcurrent()
        task = self.loop.create_task(coroutine)
        task.add_done_callback(lambda _: me.switch())
        while not task.done():
            self.fiber.switch()
        asyncio._set_running_loop(self.loop)
        return task.result()

    async def answer(self, value):
        await asyncio.sleep(0.001)
        assert asyncio.get_running_loop() is self.loop
        assert [each async for each in self.numbers()] == [0, 1]
        return value

    async def numbers(self):
        for number in range(2):
            await asyncio.sleep(0.001)
            yield number

    def close(self):
        self.stop.set_result(None)
        self.fiber.switch()
        assert self.fiber.dead
"""


@WITH_AND_WITHOUT
def test_loop_that_a_fixture_leaves_in_the_middle(suite, arguments):
    result = suite(
        LIBRARY
        + """
monkey.patch_all()

@pytest.fixture(scope="module")
def client():
    client = Client()
    yield client
    assert client.call(client.answer(6)) == 6
    client.close()
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()

@pytest.fixture
def answer(client):
    yield client.call(client.answer(4))
    assert client.call(client.answer(5)) == 5

@pytest.fixture(scope="module")
def loop_of_module():
    return get_loop()

@pytest.mark.greenio
def test_that_has_it_made_meanwhile(loop_of_module, request):
    # On a loop that is there: pytest-asyncio 0.26 warns of one of a broader scope that is made during a test.
    client = request.getfixturevalue("client")
    assert client.call(client.answer(3)) == 3
    assert await_(asyncio.sleep(0.001, 4)) == 4

@pytest.mark.greenio
@pytest.mark.parametrize("number", [1, 2])
def test_green(client, answer, number):
    assert answer == 4
    assert client.call(client.answer(number)) == number
    assert await_(asyncio.sleep(0.001, 7)) == 7
    time.sleep(0.001)
    assert client.call(client.answer(number)) == number
    assert get_loop() is not client.loop

@pytest.mark.greenio(loop_scope="module")
def test_on_the_loop_of_the_fixture(client, answer):
    assert client.call(client.answer(8)) == 8

@pytest.mark.greenio(loop_scope="module")
async def test_async(client):
    assert asyncio.get_running_loop() is not client.loop
    await asyncio.sleep(0.001)

def test_native():
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
""",
        *arguments,
    )
    result.assert_outcomes(passed=6)


@WITH_AND_WITHOUT
def test_clients_and_servers_start_no_thread(suite, arguments):
    """But for names and for a system's certificates, which a thread of the loop's executor looks up."""
    result = suite(
        """
        import _thread

        STARTED = []
        monkey.patch_all()

        @pytest.fixture(params=["asgi", "wsgi"])
        def url(request, serve):
            async def asgi(scope, receive, send):
                if scope["type"] == "http":
                    await asyncio.sleep(0.001)
                    CALLS.append(threading.get_native_id())
                    await send({"type": "http.response.start", "status": 200, "headers": []})
                    await send({"type": "http.response.body", "body": b"answer"})

            def wsgi(environment, start_response):
                time.sleep(0.001)
                CALLS.append(threading.get_native_id())
                start_response("200 OK", [])
                return [b"answer"]

            return serve({"asgi": asgi, "wsgi": wsgi}[request.param])

        CALLS = []

        @pytest.fixture
        def threads(monkeypatch):
            def of_executor(thread):
                return thread.name.startswith("asyncio_") or "_do_shutdown" in thread.name
            def others():
                return [thread for thread in threading.enumerate() if not of_executor(thread)]
            def watched(native):
                def start(function, *args, **kwargs):
                    if not of_executor(getattr(function, "__self__", threading.current_thread())):
                        STARTED.append(function)
                        raise RuntimeError("no thread may be started")
                    return native(function, *args, **kwargs)
                return start
            before = others()
            for module in (_thread, threading):
                for name in vars(module):
                    if name.lstrip("_") in ("start_new_thread", "start_joinable_thread"):
                        monkeypatch.setattr(module, name, watched(getattr(module, name)))
            yield
            assert not STARTED
            assert others() == before

        @pytest.mark.greenio
        def test_clients(threads, url):
            import httpx
            import requests
            import urllib.request
            with requests.Session() as session:
                assert session.get(url, timeout=10).text == "answer"
            with httpx.Client(trust_env=False) as client:
                assert client.get(url).text == "answer"
            with urllib.request.urlopen(url, timeout=10) as answer:
                assert answer.read() == b"answer"
            assert set(CALLS) == {threading.get_native_id()}
        """,
        *arguments,
    )
    result.assert_outcomes(passed=2)
