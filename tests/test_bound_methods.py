"""Methods that were bound, or taken from their class, before the patch: exchanged where they have a name."""

from __future__ import annotations

import functools
import gc
import selectors
import socket
import sys
import threading
import types
import weakref

import pytest

from greenio import monkey, spawn
from waiting import until_parked

pytestmark = pytest.mark.usefixtures("thawed")

socket_of_the_module, _peer = socket.socketpair()
receive = socket_of_the_module.recv
receive_from = socket.socket.recv
select_from = selectors.DefaultSelector.select


@pytest.fixture(scope="module", autouse=True)
def closed():
    yield
    socket_of_the_module.close()
    _peer.close()


class Client:
    receive_any = socket.socket.recv
    receive_static = staticmethod(socket.socket.recv)

    def __init__(self):
        self.sock, self.peer = socket.socketpair()
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.sock, selectors.EVENT_READ)
        self.thread = threading.Thread(target=self.work)
        self.may_end = threading.Event()
        self.receive, self.send, self.connect = self.sock.recv, self.sock.sendall, self.sock.connect
        self.select, self.join = self.selector.select, self.thread.join
        self.elsewhere = [self.sock.recv]

    def work(self):
        self.may_end.wait(20)

    def close(self):
        self.selector.close()
        self.sock.close()
        self.peer.close()


class Slotted:
    __slots__ = ("receive",)


@pytest.fixture
def client():
    made = Client()
    yield made
    made.close()


METHODS = {
    "global name": lambda client: receive,
    "global name of an unbound one": lambda client: functools.partial(receive_from, socket_of_the_module),
    "class attribute": lambda client: Client.shared,
    "class attribute of an unbound one": lambda client: functools.partial(Client.receive_any, client.sock),
    "static method": lambda client: functools.partial(Client.receive_static, client.sock),
    "attribute": lambda client: client.receive,
}


@pytest.mark.parametrize("timeout", [None, 20.0])
@pytest.mark.parametrize("place", METHODS)
def test_receives(arun, client, monkeypatch, place, timeout):
    """In green code it parks, in native code it is the native call; both also when the socket is adopted."""
    monkeypatch.setattr(Client, "shared", client.sock.recv, raising=False)
    is_of_module = place.startswith("global")
    sock, peer = (socket_of_the_module, _peer) if is_of_module else (client.sock, client.peer)
    sock.settimeout(timeout)

    async def main():
        get = METHODS[place](client)
        for _ in range(2):
            waiting = spawn(get, 1)
            await until_parked()
            peer.send(b"x")
            assert await waiting == b"x"
        timer = threading.Timer(0.02, peer.send, [b"y"])
        timer.start()
        assert get(1) == b"y"
        timer.join()

    with monkey.patched():
        arun(main)
    peer.send(b"z")
    assert METHODS[place](client)(1) == b"z"


@pytest.mark.parametrize("place", ["attribute", "global name of an unbound one"])
def test_selects(arun, client, place):
    async def main():
        select = client.select if place == "attribute" else functools.partial(select_from, client.selector)
        waiting = spawn(select, 20)
        await until_parked()
        client.peer.send(b"x")
        assert [key.fileobj for key, _ in await waiting] == [client.sock]

    with monkey.patched():
        arun(main)


def test_joins(arun, client):
    async def main():
        client.thread.start()
        waiting = spawn(client.join, 20)
        await until_parked()
        client.may_end.set()
        await waiting

    with monkey.patched():
        arun(main)
    assert not client.thread.is_alive()


def test_there_and_back(client):
    before = {**vars(client)}, {**vars(Client)}, receive, receive_from, select_from
    with monkey.patched():
        assert receive == socket_of_the_module.recv
        assert receive_from is socket.socket.recv
        assert select_from is selectors.DefaultSelector.select
        for name in ("receive", "send", "connect", "select", "join"):
            assert vars(client)[name].__func__ is not before[0][name]
            assert vars(client)[name].__self__ is before[0][name].__self__
        assert client.receive == client.sock.recv
    after = vars(client), {**vars(Client)}, receive, receive_from, select_from
    assert after[0] == before[0]
    assert after[1:] == before[1:]
    assert type(client.receive) is type(before[0]["receive"])


def test_what_somebody_set_since_is_left(client):
    with monkey.patched():
        mine = client.receive = client.peer.recv
    assert client.receive is mine


def test_neither_holder_nor_socket_is_kept_alive():
    client = Client()
    gone = weakref.ref(client), weakref.ref(client.sock)
    with monkey.patched():
        client.close()
        del client
        gc.collect()
        assert [each() for each in gone] == [None, None]


def test_what_is_bound_to_something_else_is_left(client):
    """Methods of the same names of other objects, and of classes that are not patched."""

    class Other:
        def recv(self, size):
            return size

    client.receive, client.pop = Other().recv, [1].pop
    before = {**vars(client)}
    with monkey.patched():
        assert (client.receive, client.pop) == (before["receive"], before["pop"])


def test_classes_keep_their_own_methods():
    bases = [base for kind in (selectors.PollSelector, socket.socket) for base in kind.__mro__]
    before = [{**vars(base)} for base in bases]
    with monkey.patched():
        changed = {base for base, own in zip(bases, before, strict=True) if vars(base) != own}
        assert changed == {selectors.PollSelector, socket.socket}
    assert [vars(base) for base in bases] == before


@pytest.mark.usefixtures("thawed")
def test_report(client):
    slotted = Slotted()
    slotted.receive = client.sock.recv
    held = functools.partial(client.sock.recv, 1)
    callbacks = [threading.Event().set, threading.Semaphore().release]

    def default(call=client.sock.send):
        return call, held, callbacks

    with monkey.patched():
        report = monkey.report()
    ours = {
        (item.native, item.name.rpartition(".<locals>.")[2], item.kind)
        for item in report.unreachable
        if item.module == __name__
    }
    assert ours == {
        ("socket.socket.recv", "Client.elsewhere", "instance"),
        ("socket.socket.recv", "Slotted.receive", "instance"),
        ("socket.socket.recv", "default", "closure"),
        ("socket.socket.send", "default", "default"),
    }
    rebound = {(item.native, item.name, item.kind) for item in report.rebound if item.module == __name__}
    assert rebound >= {
        ("socket.socket.recv", "receive", "name"),
        ("socket.socket.recv", "receive_from", "name"),
        ("selectors.EpollSelector.select", "select_from", "name"),
        ("socket.socket.recv", "Client.receive_any", "class attribute"),
        ("socket.socket.recv", "Client.receive", "instance"),
        ("selectors.EpollSelector.select", "Client.select", "instance"),
        ("threading.Thread.join", "Client.join", "instance"),
    }
    assert default()


def test_classes_that_cannot_be_hashed_or_compared():
    class Meta(type):
        __hash__ = None

        def __eq__(cls, other):
            raise ZeroDivisionError

    class Strange(metaclass=Meta):
        pass

    holder = Client.__new__(Client)
    holder.held, strange = Strange(), Strange()
    strange.lock = lock = threading.Lock()
    with monkey.patched():
        assert strange.lock is not lock
        monkey.report()
    assert strange.lock is lock


def test_lock_method_alone_in_an_instance():
    """The lock itself may be held elsewhere."""
    lock = threading.Lock()
    holder = Client.__new__(Client)
    holder.acquire = lock.acquire
    with monkey.patched():
        assert type(holder.acquire.__self__) is not type(lock)
    assert holder.acquire.__self__ is lock


def test_names_taken_while_patched_are_given_back(monkeypatch):
    late, native = types.ModuleType("imported_late"), [socket.socket.recv]
    monkeypatch.setitem(sys.modules, "imported_late", late)
    with monkey.patched():
        exec("import socket\nr = socket.socket.recv\nclass S(socket.socket):\n  r = socket.socket.recv", vars(late))
        assert late.r is late.S.r is socket.socket.recv is not native[0]
    assert late.r is late.S.r is native[0]
    assert "recv" not in vars(socket.socket)
