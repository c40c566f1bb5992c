"""Lazy modules stay unloaded, proxies unresolved, and import cycles whole, when names are searched and rebound."""

import importlib.util
import os
import sys
import tempfile
import types

touched = []


class Touchy(types.ModuleType):
    """A module that is loaded by whatever is asked of it."""

    @property
    def __dict__(self):
        touched.append("module.__dict__")
        return {}

    def __getattribute__(self, name):
        touched.append(f"module.{name}")
        return super().__getattribute__(name)


class Proxy:
    """No module, yet in sys.modules; resolves at every attribute, also when isinstance asks for its class."""

    def __getattribute__(self, name):
        touched.append(f"proxy.{name}")
        raise RuntimeError(f"resolved by {name}")


class Meta(type):
    """Classes that cannot be hashed or compared, and forbid to be changed."""

    __hash__ = None

    def __eq__(cls, other):
        raise RuntimeError("compared")

    def __setattr__(cls, name, value):
        raise RuntimeError("set")


def write(folder, **modules):
    for name, text in modules.items():
        with open(os.path.join(folder, f"{name}.py"), "w") as file:
            file.write(text)


with tempfile.TemporaryDirectory() as folder:
    write(
        folder,
        lazy="from time import sleep\nloaded = True",
        one="from time import sleep\nimport two\nfrom socket import getaddrinfo as look_up",
        two="import one\nfrom select import select\nfrom time import sleep as nap",
        late="from time import sleep\nclass Late:\n    sleep = sleep\n    still = staticmethod(sleep)",
        unregistered="from time import sleep",
    )
    sys.path.insert(0, folder)
    import one
    import two

    spec = importlib.util.find_spec("lazy")
    spec.loader = importlib.util.LazyLoader(spec.loader)
    lazy = importlib.util.module_from_spec(spec)
    sys.modules["lazy"] = lazy
    spec.loader.exec_module(lazy)

    spec = importlib.util.find_spec("unregistered")
    unregistered = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(unregistered)

    import time

    sys.modules["touchy"] = Touchy("touchy")
    sys.modules["proxy"] = Proxy()
    sys.modules["none"] = None
    Strange = Meta("Strange", (), {"sleep": time.sleep})

    from greenio import monkey

    touched.clear()
    native = time.sleep
    sys.modules["__main__"].native = None  # or it would be rebound too
    native_pair = [time.sleep]
    monkey.patch_all()
    report = monkey.report()
    assert one.sleep is two.nap is time.sleep is not native_pair[0]
    assert vars(Strange)["sleep"] is time.sleep
    assert two.select is sys.modules["select"].select
    assert one.look_up is sys.modules["socket"].getaddrinfo
    rebound = {(found.module, found.name) for found in report.rebound}
    names = {("one", "sleep"), ("one", "look_up"), ("two", "nap"), ("two", "select"), ("__main__", "Strange.sleep")}
    assert rebound >= names, rebound
    out_of_reach = {(found.native, found.module, found.name, found.kind) for found in report.unreachable}
    assert ("time.sleep", "__main__", "native_pair", "container") in out_of_reach
    assert ("time.sleep", "unregistered", "sleep", "name") in out_of_reach
    assert not touched, touched
    assert type(lazy) is not types.ModuleType, "the lazy module was loaded"

    import late

    assert late.sleep is late.Late.sleep is late.Late().sleep is time.sleep
    assert lazy.loaded
    assert lazy.sleep is time.sleep
    late.Late().sleep(0)
    late.Late().still(0)
    monkey.unpatch_all()
    native = native_pair[0]
    assert all(value is native for value in (time.sleep, one.sleep, two.nap, late.sleep, lazy.sleep))
    assert late.Late.sleep is late.Late().sleep is late.Late.still is native
    assert vars(Strange)["sleep"] is native

print("ok")
