"""The name look-ups of `socket`: the same answers and errors natively and green, off the loop's thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import socket
import threading
import weakref
from socket import getaddrinfo as early_getaddrinfo
from socket import getfqdn as early_getfqdn

import pytest

from greenio import _original, await_, monkey, to_greenlet

PROTO = socket.IPPROTO_TCP
STREAM = socket.SOCK_STREAM

QUESTIONS = [
    ("getaddrinfo", ("localhost", 80)),
    ("getaddrinfo", ("localhost", "http")),
    ("getaddrinfo", ("localhost", b"80")),
    ("getaddrinfo", (b"localhost", 80, socket.AF_INET, STREAM)),
    ("getaddrinfo", ("localhost", 80, 0, STREAM, PROTO, socket.AI_CANONNAME)),
    ("getaddrinfo", ("localhost", None)),
    ("getaddrinfo", ("127.0.0.1", 80)),
    ("getaddrinfo", ("127.0.0.1", "http")),
    ("getaddrinfo", ("::1", 443, socket.AF_INET6)),
    ("getaddrinfo", ("::1", 443, socket.AF_INET)),
    ("getaddrinfo", ("127.1", 80)),
    ("getaddrinfo", (None, 0, socket.AF_UNSPEC, STREAM, 0, socket.AI_PASSIVE)),
    ("getaddrinfo", ("", 0)),
    ("getaddrinfo", (None, None)),
    ("getaddrinfo", ("nosuch.invalid", 80)),
    ("getaddrinfo", ("b\u00fccher.invalid", 80)),
    ("getaddrinfo", ("localhost", "nosuchservice")),
    ("getaddrinfo", ("localhost", 80, 12345)),
    ("getaddrinfo", ("localhost", 80, 0, 0, 0, 1 << 20)),
    ("getaddrinfo", ("localhost", 1 << 70)),
    ("getaddrinfo", ("localhost", 1.5)),
    ("getaddrinfo", (1, 2)),
    ("getaddrinfo", ("localhost", 80, "x")),
    ("getaddrinfo", ("localhost", 80, 0, 0, 0, None)),
    ("getaddrinfo", ("a" * 70 + ".invalid", 80)),
    ("getaddrinfo", ("loc\0alhost", 80)),
    ("getaddrinfo", ("localhost",)),
    ("getaddrinfo", ("localhost", 80, 0, 0, 0, 0, 0)),
    ("gethostbyname", ("localhost",)),
    ("gethostbyname", ("127.0.0.1",)),
    ("gethostbyname", ("",)),
    ("gethostbyname", ("<broadcast>",)),
    ("gethostbyname", ("::1",)),
    ("gethostbyname", ("nosuch.invalid",)),
    ("gethostbyname", (1,)),
    ("gethostbyname", ()),
    ("gethostbyname_ex", ("localhost",)),
    ("gethostbyname_ex", ("127.0.0.1",)),
    ("gethostbyname_ex", ("nosuch.invalid",)),
    ("gethostbyaddr", ("127.0.0.1",)),
    ("gethostbyaddr", ("localhost",)),
    ("gethostbyaddr", ("nosuch.invalid",)),
    ("gethostbyaddr", (b"\xff",)),
    ("getnameinfo", (("127.0.0.1", 80), 0)),
    ("getnameinfo", (("127.0.0.1", 80), socket.NI_NUMERICHOST)),
    ("getnameinfo", (("127.0.0.1", 80), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)),
    ("getnameinfo", (("127.0.0.1", 69), socket.NI_NUMERICHOST | socket.NI_DGRAM)),
    ("getnameinfo", (("::1", 80, 0, 0), 0)),
    ("getnameinfo", (("localhost", 80), 0)),
    ("getnameinfo", (["127.0.0.1", 80], 0)),
    ("getnameinfo", (("127.0.0.1",), 0)),
    ("getnameinfo", (("127.0.0.1", 80), "x")),
    ("getfqdn", ("localhost",)),
    ("getfqdn", ("nosuch.invalid",)),
    ("getservbyname", ("http",)),
    ("getservbyname", ("domain", "udp")),
    ("getservbyname", ("nosuchservice",)),
    ("getservbyname", (1,)),
    ("getservbyport", (80,)),
    ("getservbyport", (53, "udp")),
    ("getservbyport", (70000,)),
    ("getservbyport", (1,  "nosuchprotocol")),
    ("getprotobyname", ("tcp",)),
    ("getprotobyname", ("nosuchprotocol",)),
]  # fmt: skip


def ask(name, args):
    """Answer, with every type in it, or raise: what a test compares."""
    try:
        answer = getattr(socket, name)(*args)
    except Exception as error:
        return type(error), error.args, getattr(error, "errno", None)
    return answer, typed(answer)


def typed(value):
    if isinstance(value, (list, tuple)):
        return type(value), [typed(item) for item in value]
    return type(value)


def test_answers_and_errors_are_the_native_ones(arun):
    native = [ask(*question) for question in QUESTIONS]
    with monkey.patched():
        green = arun(lambda: to_greenlet(lambda: [ask(*question) for question in QUESTIONS]))
    for question, expected, answer in zip(QUESTIONS, native, green, strict=True):
        assert answer == expected, question
    unknown = [answer[0] for answer in green if answer[0] in (socket.gaierror, socket.herror)]
    assert len(unknown) > 5


def test_keywords_of_getaddrinfo(arun, patched):
    call = functools.partial(socket.getaddrinfo, host="localhost", port=80, family=socket.AF_INET, type=STREAM)
    assert arun(lambda: to_greenlet(call, proto=PROTO, flags=0)) == call(proto=PROTO, flags=0)


class Hosts:
    """Stands in for a loop's resolver: answers when told to, and counts what it was asked."""

    def __init__(self, loop):
        self.asked = []
        self.answer = loop.create_future()

    async def getaddrinfo(self, host, port, *, family=0, type=0, proto=0, flags=0):
        self.asked.append((host, port, family, type, proto, flags))
        return await self.answer

    async def getnameinfo(self, address, flags=0):
        self.asked.append((address, flags))
        return await self.answer


class Loop(asyncio.SelectorEventLoop):
    """A loop with a resolver of its own, as aiodns users have."""

    hosts: Hosts

    def getaddrinfo(self, *args, **kwargs):
        return self.hosts.getaddrinfo(*args, **kwargs)

    def getnameinfo(self, *args, **kwargs):
        return self.hosts.getnameinfo(*args, **kwargs)


@pytest.fixture
def resolver_loop(patched):
    loop = Loop()
    loop.hosts = Hosts(loop)
    yield loop
    loop.close()


def test_the_loops_own_resolver_is_asked(resolver_loop):
    loop = resolver_loop

    async def main():
        task = asyncio.create_task(to_greenlet(socket.getaddrinfo, "db.internal", "http", 0, STREAM))
        await asyncio.sleep(0)
        assert loop.hosts.asked == [("db.internal", "http", 0, STREAM, 0, 0)]
        loop.hosts.answer.set_result([(2, 1, 6, "", ("192.0.2.1", 80)), (999, 999, 6, "", ("x", 1))])
        found = await task
        assert found == [(socket.AF_INET, STREAM, 6, "", ("192.0.2.1", 80)), (999, 999, 6, "", ("x", 1))]
        assert isinstance(found[0][0], socket.AddressFamily) and isinstance(found[0][1], socket.SocketKind)

    loop.run_until_complete(main())


def test_the_loops_own_resolver_is_asked_for_names_of_addresses(resolver_loop):
    loop = resolver_loop

    async def main():
        task = asyncio.create_task(to_greenlet(socket.getnameinfo, ("192.0.2.1", 80), socket.NI_NUMERICSERV))
        await asyncio.sleep(0)
        assert loop.hosts.asked == [(("192.0.2.1", 80), socket.NI_NUMERICSERV)]
        loop.hosts.answer.set_result(("db.internal", "80"))
        assert await task == ("db.internal", "80")

    loop.run_until_complete(main())


def test_connect_sendto_and_bind_ask_it_too(resolver_loop):
    loop = resolver_loop

    def use():
        with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
            client.settimeout(5)
            client.connect(("db.internal", server.getsockname()[1]))
            with socket.socket() as other:
                assert other.connect_ex(("db.internal", server.getsockname()[1])) == 0
        with socket.socket(type=socket.SOCK_DGRAM) as one, socket.socket(type=socket.SOCK_DGRAM) as two:
            one.bind(("db.internal", 0))
            two.sendto(b"a", ("db.internal", one.getsockname()[1]))
            two.sendto(b"b", 0, ("db.internal", one.getsockname()[1]))
            two.sendmsg([b"c"], [], 0, ("db.internal", one.getsockname()[1]))
            assert [one.recv(9) for _ in range(3)] == [b"a", b"b", b"c"]

    loop.hosts.answer.set_result([(2, 1, 6, "", ("127.0.0.1", 0))])
    loop.run_until_complete(to_greenlet(use))
    assert [asked[0] for asked in loop.hosts.asked] == ["db.internal"] * 6


def test_numeric_hosts_ask_nobody(resolver_loop):
    loop = resolver_loop

    def use():
        socket.getaddrinfo("127.0.0.1", 80)
        socket.getaddrinfo("127.0.0.1", "80")
        socket.getaddrinfo("127.0.0.1", b"80")
        socket.getaddrinfo("::1", None)
        socket.getaddrinfo("fe80::1%1", 80)
        socket.getaddrinfo(None, 80)
        socket.getaddrinfo("127.0.0.1", "80", 0, 0, 0, socket.AI_NUMERICSERV)
        socket.gethostbyname("127.0.0.1")
        socket.gethostbyname_ex("127.0.0.1")
        socket.getnameinfo(("127.0.0.1", 80), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=5).close()

    loop.set_default_executor(NoExecutor())
    loop.run_until_complete(to_greenlet(use))
    assert loop.hosts.asked == []


class NoExecutor(concurrent.futures.ThreadPoolExecutor):
    """What must not be used."""

    def submit(self, *args, **kwargs):
        raise AssertionError("the executor was used")


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("gethostbyname", ("slow.invalid",)),
        ("gethostbyname_ex", ("slow.invalid",)),
        ("gethostbyaddr", ("127.0.0.1",)),
        ("getservbyname", ("http",)),
        ("getservbyport", (80,)),
        ("getprotobyname", ("tcp",)),
    ],
)
def test_what_loops_lack_goes_to_their_executor(patched, name, args):
    class Held(concurrent.futures.ThreadPoolExecutor):
        """Runs nothing before it is let go."""

        asked: list = []

        def submit(self, work):
            future: concurrent.futures.Future = concurrent.futures.Future()
            self.asked.append((getattr(work.func, "__wrapped__", work.func), work.args, future))
            return future

    async def main():
        loop = asyncio.get_running_loop()
        held = Held()
        held.asked = []
        loop.set_default_executor(held)
        task = asyncio.create_task(to_greenlet(getattr(socket, name), *args))
        cancelled = asyncio.create_task(to_greenlet(getattr(socket, name), *args))
        for _ in range(3):
            await asyncio.sleep(0)
        assert not task.done()
        assert [entry[:2] for entry in held.asked] == [(monkey.original("socket", name), args)] * 2
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        held.asked[0][2].set_result("answer")
        assert await task == "answer"

    asyncio.run(main())


def test_look_ups_at_once_do_not_mix_their_answers(patched, arun):
    """The C library gives all threads the answers of these in the same place."""

    def look_up():
        for _ in range(20):
            assert socket.getservbyname("http") == 80
            assert socket.getservbyport(53, "udp") == "domain"
            assert socket.getprotobyname("tcp") == 6

    arun(lambda: asyncio.wait_for(asyncio.gather(*(to_greenlet(look_up) for _ in range(50))), 30))


def test_cancelled_and_timed_out(resolver_loop):
    loop = resolver_loop

    async def main():
        task = asyncio.create_task(to_greenlet(socket.getaddrinfo, "db.internal", 80))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert loop.hosts.answer.cancelled()
        loop.hosts = Hosts(loop)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(to_greenlet(socket.create_connection, ("db.internal", 80)), 0.01)
        assert loop.hosts.asked

    loop.run_until_complete(main())


def test_errors_of_the_resolver_pass_through(resolver_loop):
    loop = resolver_loop
    loop.hosts.answer.set_exception(socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"))

    async def main():
        with pytest.raises(socket.gaierror, match="Temporary failure"):
            await to_greenlet(socket.create_connection, ("db.internal", 80))
        with socket.socket() as sock:
            with pytest.raises(socket.gaierror, match="Temporary failure"):
                await to_greenlet(sock.connect_ex, ("db.internal", 80))

    loop.run_until_complete(main())


def test_an_executor_that_runs_green_code_does_not_come_back_for_ever(patched):
    class Green(concurrent.futures.ThreadPoolExecutor):
        """Runs what it is given in greenlets of the loop."""

        def __init__(self, loop):
            super().__init__()
            self.loop = loop
            self.calls = 0

        def submit(self, fn, *args):
            self.calls += 1
            assert self.calls < 10
            future: concurrent.futures.Future = concurrent.futures.Future()
            self.loop.create_task(self.work(future, fn, args))
            return future

        async def work(self, future, fn, args):
            try:
                future.set_result(await to_greenlet(fn, *args))
            except BaseException as error:
                future.set_exception(error)

    async def main():
        executor = Green(asyncio.get_running_loop())
        asyncio.get_running_loop().set_default_executor(executor)
        assert await to_greenlet(socket.getaddrinfo, "localhost", 80) == _original.getaddrinfo("localhost", 80)
        flags = socket.NI_NUMERICHOST
        assert await to_greenlet(socket.getnameinfo, ("127.0.0.1", 80), flags) == ("127.0.0.1", "http")
        assert await to_greenlet(socket.gethostbyname, "localhost") == "127.0.0.1"
        assert executor.calls == 3

    asyncio.run(main())


def test_functions_that_call_these_by_name_follow(resolver_loop):
    loop = resolver_loop
    asked = []

    class Executor(concurrent.futures.ThreadPoolExecutor):
        def submit(self, work):
            asked.append(work.func)
            return super().submit(work)

    executor = Executor()
    loop.set_default_executor(executor)
    assert loop.run_until_complete(to_greenlet(early_getfqdn, "localhost"))
    assert asked == [monkey.original("socket", "gethostbyaddr")]
    executor.shutdown()


def test_early_names_are_rebound_and_given_back():
    native = early_getaddrinfo
    with monkey.patched("dns"):
        assert early_getaddrinfo is socket.getaddrinfo is not native
        assert monkey.is_patched("socket.gethostbyaddr") and not monkey.is_patched("socket")
    assert early_getaddrinfo is socket.getaddrinfo is native


def test_native_code_resolves_in_its_own_thread(resolver_loop):
    loop = resolver_loop
    threads = []

    def resolve():
        threads.append(threading.get_ident())
        return socket.getaddrinfo("localhost", 80), socket.getnameinfo(("127.0.0.1", 80), 0)

    async def main():
        resolve()
        await asyncio.to_thread(resolve)

    loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_default_executor())
    assert loop.hosts.asked == [] and len(set(threads)) == 2


def test_the_loops_own_lookups_work_while_patched(arun, patched):
    async def main():
        loop = asyncio.get_running_loop()
        native = _original.getaddrinfo("localhost", 80, type=STREAM)
        assert [tuple(found) for found in await loop.getaddrinfo("localhost", 80, type=STREAM)] == native
        assert await to_greenlet(lambda: await_(loop.getnameinfo(("127.0.0.1", 80)))) == ("localhost", "http")

    arun(main)


def test_twenty_at_once(arun, patched):
    async def main():
        calls = [to_greenlet(socket.getaddrinfo, "localhost", port) for port in range(1, 21)]
        for port, found in enumerate(await asyncio.gather(*calls), 1):
            assert {address[4][1] for address in found} == {port}

    arun(main)


def test_an_error_keeps_no_bad_address_alive(arun, patched):
    class Address:
        pass

    def body():
        address = Address()
        gone = weakref.ref(address)
        try:
            socket.getnameinfo(address, 0)
        except TypeError:
            del address
            assert gone() is None
        else:
            raise AssertionError("an address of a wrong type was accepted")

    body()
    arun(lambda: to_greenlet(body))


HOSTS = [
    "127.0.0.1\0.evil",
    "localhost\0.evil",
    b"localhost\0.evil",
    bytearray(b"127.0.0.1\0"),
    bytearray(b"localhost\0.evil"),
    "a" * 64 + ".invalid",
    ("a" * 64 + ".invalid").encode(),
    bytearray(b"a" * 64 + b".invalid"),
    "a..invalid",
    ".",
    "\udcff",
    "\udcff.invalid",
    "\u00fc" * 64 + ".invalid",
    "b\u00fccher.invalid",
    "b\u00fccher.invalid".encode(),
    b"\xff",
    "localhost",
    b"localhost",
    bytearray(b"localhost"),
    bytearray(b"127.0.0.1"),
    bytearray(),
    memoryview(b"127.0.0.1"),
    None,
    5,
]
USES = {
    "connect": lambda sock, host: sock.connect((host, 1)),
    "connect_ex": lambda sock, host: sock.connect_ex((host, 1)),
    "bind": lambda sock, host: sock.bind((host, 0)),
    "sendto": lambda sock, host: sock.sendto(b"x", (host, 1)),
    "sendmsg": lambda sock, host: sock.sendmsg([b"x"], [], 0, (host, 1)),
    "getaddrinfo": lambda sock, host: socket.getaddrinfo(host, 1, socket.AF_INET),
    "gethostbyname": lambda sock, host: socket.gethostbyname(host),
}


def use_of_hosts():
    found = {}
    for host in HOSTS:
        for name, use in USES.items():
            with socket.socket(type=socket.SOCK_DGRAM) as sock:
                try:
                    found[name, str(host)] = use(sock, host)
                except Exception as error:
                    found[name, str(host)] = type(error), error.args
    return found


def test_hosts_are_taken_and_refused_as_natively(arun):
    """Those with a null character above all: resolvers end the name there, and would find another host."""
    native = use_of_hosts()
    with monkey.patched():
        green = arun(lambda: to_greenlet(use_of_hosts))
    for key, expected in native.items():
        assert green[key] == expected, key
    assert native["connect", "localhost"] is None
    for name in ("connect", "connect_ex", "bind", "sendto", "sendmsg"):
        assert native[name, "127.0.0.1\0.evil"][0] is TypeError
