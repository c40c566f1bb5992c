import asyncio, os
from greenio import monkey, to_greenlet
from waiting import until_parked
import subprocess, sys

def test_smoke(arun, patched):
    async def main():
        r, w = os.pipe()
        t = asyncio.create_task(to_greenlet(os.read, r, 10))
        await until_parked()
        assert await to_greenlet(os.write, w, b"abc") == 3
        assert await t == b"abc"
        await to_greenlet(os.close, r); await to_greenlet(os.close, w)
        def child():
            p = subprocess.Popen([sys.executable, "-c", "import time; print('a', flush=True); time.sleep(.2); print('b')"], stdout=subprocess.PIPE)
            with p:
                return [p.stdout.readline(), p.stdout.readline(), p.stdout.read(), p.wait()]
        assert await to_greenlet(child) == [b"a\n", b"b\n", b"", 0]
    arun(main)
