"""run_info() looks at coroutines that are in the midst of a call, at each state that the call's cache can have."""

import asyncio

from greenio import debug, install, monkey

monkey.patch_all()


class Look:
    """Called as an object, which CPython gives up to specialise, with ever longer pauses between two attempts."""

    def __call__(self):
        (info,) = debug.run_info().loops
        assert "function='looks'" in str(info)


async def looks(look):
    for _ in range(500):
        look()


async def main():
    loop = asyncio.get_running_loop()
    loop.slow_callback_duration = 60
    install(loop)
    await asyncio.create_task(looks(Look()))


asyncio.run(main())
print("ok")
