"""Patching imports nothing of multiprocessing; its modules are patched when the program imports them."""

import sys
import threading

from greenio import monkey, run

PARTS = ("connection", "forkserver", "managers", "popen_fork", "queues", "resource_tracker", "synchronize", "util")
NAMES = (*(f"multiprocessing.{part}" for part in PARTS), "concurrent.futures.process")


def loaded():
    return [name for name in sys.modules if name.partition(".")[0] == "multiprocessing"]


finders = list(sys.meta_path)
with monkey.patched():
    assert len(sys.meta_path) == len(finders) + 1
assert sys.meta_path == finders
monkey.patch_all()
assert not loaded()

import multiprocessing  # noqa: E402

assert not monkey.report().patched["multiprocessing"]
lock = multiprocessing.get_context("fork").Lock()  # imports what it needs
assert type(lock._semlock).__module__.startswith("greenio")
threads = [threading.Thread(target=__import__, args=(name,)) for name in NAMES * 3]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert sys.meta_path == finders
for name in NAMES:
    module = sys.modules[name]
    assert type(module.__loader__).__module__ == "_frozen_importlib_external", module.__loader__
    assert module.__loader__ is module.__spec__.loader
    assert any(target.startswith(f"{module.__name__}.") for target in monkey.report().patched["multiprocessing"])
assert monkey.is_patched("multiprocessing.queues.SimpleQueue.put")
assert run(lambda: lock.acquire() and not lock.acquire(True, 0.01))
lock.release()
receiver, sender = multiprocessing.Pipe()
assert run(lambda: sender.send(1) or receiver.recv()) == 1
native = monkey.original("multiprocessing.queues", "SimpleQueue.put")
monkey.unpatch_all()
assert multiprocessing.queues.SimpleQueue.put is native
assert type(lock._semlock).__module__ == "_multiprocessing"
receiver.close()
sender.close()
print("ok")
