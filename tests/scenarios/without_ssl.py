"""A CPython that was built without OpenSSL: the rest works, and the group that is missing says so."""

import sys

sys.modules["ssl"] = sys.modules["_ssl"] = None

import asyncio  # noqa: E402
import time  # noqa: E402

from greenio import monkey, to_greenlet  # noqa: E402


def refusal(call):
    try:
        call()
    except RuntimeError as error:
        return str(error)
    raise AssertionError("ssl was patched")


for call in (monkey.patch_all, monkey.patch_ssl, monkey.patched("ssl").__enter__):
    said = refusal(call)
    assert said.startswith("cannot patch 'ssl': this Python has no module "), said
    assert "patch_all(ssl=False)" in said
    assert "selectors" in said
assert not monkey.report().patched
monkey.patch_all(ssl=False)
assert monkey.is_patched("socket")
assert not monkey.is_patched("ssl")


async def main():
    asyncio.get_running_loop().slow_callback_duration = 60
    await to_greenlet(time.sleep, 0.001)


asyncio.run(main())
monkey.unpatch_all()
print("ok")
