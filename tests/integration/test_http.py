"""requests, urllib3, urllib.request and smtplib, against servers on the very loop that hosts the greenlets."""

from __future__ import annotations

import asyncio
import smtplib
import ssl
import time
import urllib.request
from email.message import EmailMessage

import pytest
import requests
import trustme
import urllib3

from greenio import spawn, timeout, to_greenlet

from .servers import Heartbeat, http_server, smtp_server

pytestmark = [pytest.mark.usefixtures("patched")]

AT_ONCE = 50


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    return context


@pytest.fixture(autouse=True)
def own_authorities_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep requests from preferring what the environment says over `verify`."""
    for name in ("CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def bundle(authority: trustme.CA, tmp_path) -> str:
    """The path of a file with the authority's certificate."""
    path = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(path)
    return str(path)


def test_requests_fifty_at_once(arun):
    async def main():
        async with http_server() as port, Heartbeat(at_least=10):
            began = time.monotonic()
            pages = await asyncio.gather(
                *(to_greenlet(requests.get, f"http://127.0.0.1:{port}/slow/0.3", timeout=30) for _ in range(AT_ONCE))
            )
            assert time.monotonic() - began < AT_ONCE * 0.3 / 2
        assert {page.text for page in pages} == {"/slow/0.3"}

    arun(main)


def test_requests_over_tls_fifty_at_once(arun, server_context, bundle):
    def work(port: int, number: int) -> None:
        with requests.Session() as session:
            session.verify = bundle
            assert session.get(f"https://127.0.0.1:{port}/slow/0.3", timeout=30).text == "/slow/0.3"
            assert session.post(f"https://127.0.0.1:{port}/", data=b"y" * 100_000, timeout=30).content == b"y" * 100_000
            assert session.get(f"https://127.0.0.1:{port}/bytes/100000", timeout=30).content == b"x" * 100_000

    async def main():
        async with http_server(server_context) as port, Heartbeat(at_least=10):
            await asyncio.gather(*(to_greenlet(work, port, number) for number in range(AT_ONCE)))

    arun(main)


def test_urllib3_pool_over_tls(arun, server_context, bundle):
    async def main():
        with urllib3.PoolManager(ca_certs=bundle, maxsize=10) as pool:

            def work(number: int) -> None:
                for turn in range(3):
                    answer = pool.request("GET", f"https://localhost:{port}/{number}/{turn}", timeout=30.0)
                    assert answer.data == f"/{number}/{turn}".encode()

            async with http_server(server_context) as port, Heartbeat():
                await asyncio.gather(*(to_greenlet(work, number) for number in range(20)))

    arun(main)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_requests_timeout(arun, server_context, bundle, tls):
    async def main():
        async with http_server(server_context if tls else None) as port, Heartbeat(at_least=10):
            url = f"http{'s' * tls}://127.0.0.1:{port}/slow/20"
            began = time.monotonic()
            results = await asyncio.gather(
                *(to_greenlet(requests.get, url, timeout=0.5, verify=bundle) for _ in range(5)), return_exceptions=True
            )
            assert [type(result) for result in results] == [requests.exceptions.ReadTimeout] * 5, results
            assert 0.49 < time.monotonic() - began < 5

    arun(main)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_requests_server_stops_in_mid_answer(arun, server_context, bundle, tls):
    async def main():
        async with http_server(server_context if tls else None) as port, Heartbeat():
            url = f"http{'s' * tls}://127.0.0.1:{port}/cut/100000"
            with pytest.raises((requests.exceptions.ChunkedEncodingError, requests.exceptions.ConnectionError)):
                await to_greenlet(requests.get, url, timeout=30, verify=bundle)

    arun(main)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_cancelled_request_does_not_come_back_to_the_pool(arun, server_context, bundle, tls):
    async def main():
        with requests.Session() as session:
            session.verify = bundle
            async with http_server(server_context if tls else None) as port, Heartbeat():
                url = f"http{'s' * tls}://127.0.0.1:{port}"
                await to_greenlet(session.get, f"{url}/first", timeout=30)
                victim = spawn(session.get, f"{url}/slow/0.2", timeout=30)
                await asyncio.sleep(0.1)
                victim.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await victim
                # On the same connection this would read the late answer of the one before.
                assert (await to_greenlet(session.get, f"{url}/after", timeout=30)).text == "/after"

    arun(main)


def test_greenio_timeout_around_a_request(arun):
    def work(port: int) -> str:
        with pytest.raises(TimeoutError), timeout(0.2):
            requests.get(f"http://127.0.0.1:{port}/slow/20", timeout=30)
        return requests.get(f"http://127.0.0.1:{port}/after", timeout=30).text

    async def main():
        async with http_server() as port, Heartbeat(at_least=10):
            assert await to_greenlet(work, port) == "/after"

    arun(main)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_urllib_request(arun, server_context, authority, tls):
    context = ssl.create_default_context()
    authority.configure_trust(context)

    def work(url: str) -> bytes:
        with urllib.request.urlopen(url, timeout=30, context=context if tls else None) as answer:
            return answer.read()

    async def main():
        async with http_server(server_context if tls else None) as port, Heartbeat(at_least=10):
            url = f"http{'s' * tls}://localhost:{port}/slow/0.2"
            assert await asyncio.gather(*(to_greenlet(work, url) for _ in range(20))) == [b"/slow/0.2"] * 20

    arun(main)


def test_smtplib(arun):
    inbox: list[bytes] = []

    def send(port: int, number: int) -> None:
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = "a@example.org", "b@example.org", f"number {number}"
        message.set_content("hello\n" * 1000)
        with smtplib.SMTP("127.0.0.1", port, timeout=30, local_hostname="test") as client:
            client.send_message(message)

    async def main():
        inbox.clear()
        async with smtp_server(inbox, delay=0.2) as port, Heartbeat(at_least=10):
            began = time.monotonic()
            await asyncio.gather(*(to_greenlet(send, port, number) for number in range(AT_ONCE)))
            assert time.monotonic() - began < AT_ONCE * 0.2 / 2
        subjects = sorted(int(mail.partition(b"Subject: number ")[2].split()[0]) for mail in inbox)
        assert subjects == list(range(AT_ONCE))

    arun(main)
