"""Sync Playwright and a real browser in green tests, against an async server of the same loop.

Needs `pip install playwright` in the environment, and a Chromium on the PATH instead of its own download of a browser.
"""

from __future__ import annotations

import importlib.util
import shutil

import pytest

pytest_plugins = ["pytester", "suites"]

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="not installed: playwright"),
    pytest.mark.skipif(BROWSER is None, reason="no Chromium is on the PATH"),
    pytest.mark.timeout(180),  # a browser starts in seconds, and in many where others work too
]

SUITE = """
import requests
from playwright.sync_api import TimeoutError as PlaywrightTimeout, expect, sync_playwright

monkey.patch_all()
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--no-proxy-server"]
SERVED = []

async def app(scope, receive, send):
    if scope["type"] == "http":
        SERVED.append((scope["path"], asyncio.get_running_loop(), threading.get_native_id()))
        if scope["path"] == "/never":
            await asyncio.Event().wait()
        await asyncio.sleep(0.001)
        headers = [(b"content-type", b"text/html")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        body = b"<title>%b</title><p>served</p><button onclick='document.title=1'>" % scope["path"].encode()
        await send({"type": "http.response.body", "body": body})

@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, headless=True, args=FLAGS)
        yield browser
        browser.close()

@pytest.fixture
def page(browser):
    page = browser.new_page()
    yield page
    page.close()

@pytest.fixture
def url(serve):
    return serve(app)
"""


@pytest.mark.parametrize("loop", ["pytest-asyncio", "uvloop"])
def test_sync_playwright(suite, loop):
    """One browser serves tests on loops of their own and of the module's; all of it is one thread's."""
    result = suite(
        f"BROWSER = {BROWSER!r}\n"
        + SUITE
        + """
@pytest.mark.greenio
def test_page(url, page):
    page.goto(url + "/page")
    assert page.title() == "/page"
    expect(page.locator("p")).to_have_text("served")
    page.click("button")
    assert page.title() == "1"
    assert SERVED[0] == ("/page", get_loop(), threading.get_native_id())
    # No thread but the one in which asyncio waits for Playwright's child, before CPython 3.12.
    assert all("waitpid" in each.name for each in threading.enumerate() if each is not threading.main_thread())

@pytest.mark.greenio(loop_scope="module")
def test_other_waits_in_between(url, page):
    page.goto(url + "/first")
    assert requests.get(url + "/second", timeout=10).status_code == 200
    assert await_(asyncio.sleep(0.001, 5)) == 5
    time.sleep(0.001)
    assert page.title() == "/first"
    assert page.evaluate("url => fetch(url).then(answer => answer.text())", url + "/third").startswith("<title>/third")

@pytest.mark.greenio
def test_the_loop_goes_on(url, page):
    turns, ended = [], []

    async def turn():
        while not ended:
            turns.append(1)
            await asyncio.sleep(0.001)

    task = get_loop().create_task(turn())  # to asyncio, and so to `spawn`, the running loop is Playwright's
    page.goto(url)
    page.wait_for_timeout(100)
    ended.append(1)
    await_(task)
    assert len(turns) > 10

@pytest.mark.greenio
def test_callbacks_may_block(url, page):
    said = []

    def fulfill(route):
        time.sleep(0.001)
        route.fulfill(content_type="text/html", body=requests.get(url + "/other", timeout=10).text)
        assert in_greenlet()

    page.on("console", lambda message: said.append(message.text))
    page.route("**/routed", fulfill)
    page.expose_function("ask", lambda path: requests.get(url + path, timeout=10).text)
    page.goto(url + "/routed")
    assert page.title() == "/other"
    assert page.evaluate("ask('/asked')").startswith("<title>/asked")
    with page.expect_console_message():
        page.evaluate("console.log('said')")
    assert said == ["said"]

@pytest.mark.greenio
def test_limits(url, page):
    with pytest.raises(PlaywrightTimeout):
        page.goto(url + "/never", timeout=100)
    page.goto(url + "/there")
    with pytest.raises(PlaywrightTimeout):
        page.wait_for_selector("#missing", timeout=100)
    with pytest.raises(TimeoutError), greenio.timeout(0.1):
        page.wait_for_selector("#missing")
    assert page.title() == "/there"

@pytest.mark.greenio
@pytest.mark.timeout(3, method="signal", func_only=True)
@pytest.mark.xfail(reason="it is ended by its time limit", raises=pytest.fail.Exception, strict=True)
def test_that_takes_too_long(url, page):
    page.wait_for_selector("#missing")

@pytest.mark.greenio
def test_after_it(url, page):
    page.goto(url + "/after")
    assert page.title() == "/after"

@pytest.mark.greenio
async def test_async_test_beside(browser):
    await asyncio.sleep(0.001)
""",
        *(("-p", "no:asyncio") if loop == "uvloop" else ()),
        ini="greenio_loop_factory = uvloop\n" if loop == "uvloop" else "",
        timeout=150,
    )
    result.assert_outcomes(passed=7, xfailed=1)


def test_playwright_within_one_call(suite):
    """Several calls of `to_greenlet` at once, each with a Playwright of its own, as threads would have."""
    result = suite(
        f"BROWSER = {BROWSER!r}\n"
        + SUITE
        + """
def look_at(url):
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, headless=True, args=FLAGS)
        page = browser.new_page()
        page.goto(url)
        title = page.title()
        browser.close()
        return title

@pytest.mark.greenio
async def test_two_at_once(serve):
    url = await serve.start(app)
    urls = [f"{url}/{number}" for number in range(2)]
    assert await asyncio.gather(*(greenio.to_greenlet(look_at, url) for url in urls)) == ["/0", "/1"]
""",
        timeout=150,
    )
    result.assert_outcomes(passed=1)
