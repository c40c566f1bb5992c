"""`threading.local` whose values are a green's own in sync green code, and the thread's own everywhere else.

The class is a subclass of the native one, which keeps the values of threads as it always did: native code reaches them
by the native methods. The values of greens belong to the local: a dict by the identity of the call. So they go with the
local, rings through it included, and each green drops its own when its call ends.

A subclass of the native class that is older than the patch is given the same methods; its greens' values stand in a
table beside it, and a ring through them lasts until the call ends. So do those in an instance of the native class
itself, around which each patch puts another local: they outlast that.

In a forked child, the code that forked is the thread, and sees the values of the green that it was.

What async code sees, in a task as below `await_`, is the thread's: it may be resumed in any green, or in none.
"""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from .. import _original
from .._core import current_green, forked_green, getcurrent

__all__ = ["LOCAL_METHODS", "GreenIdentity", "OldLocal", "be_the_thread", "current_identity", "local"]

_ROUNDS = 4
"""How often values are dropped at the end of a call, since finalizers may set new ones: as often as pthreads does."""


class GreenIdentity:
    """Who sync code is while one call lasts.

    Attributes:
        at_end: What is called once when the call has ended, after the values were dropped.
        joined: Whether `run` waits for the end.
        thread: What `threading.current_thread()` returns; None until somebody asks.
    """

    __slots__ = ("__weakref__", "_locals", "at_end", "joined", "thread")

    hears_signals = False

    def __init__(self) -> None:
        self._locals: dict[int, weakref.ref[Any]] = {}
        self.at_end: Callable[[], None] | None = None
        self.joined = False
        self.thread: Any = None

    def note(self, owner: Any) -> None:
        """Remember that `owner`, a local, holds values of this call."""
        held = self._locals
        key = id(owner)
        held[key] = weakref.ref(owner, lambda _: held.pop(key, None))

    def end(self) -> None:
        """Drop the values, and tell that the call has ended. May park, in finalizers."""
        for _ in range(_ROUNDS):
            if not self._locals:
                break
            for reference in tuple(self._locals.values()):
                owner = reference()
                if owner is not None:
                    self._locals.pop(id(owner), None)
                    _tables(owner).pop(self, None)
                    del owner
        at_end, self.at_end = self.at_end, None
        if at_end is not None:
            at_end()


class _ThreadsOwn:
    """The identity of a call that is the thread itself: the program of `python -m greenio`."""

    __slots__ = ()

    hears_signals = True

    def end(self) -> None:
        """Let everything be: it is the thread's."""


def be_the_thread() -> None:
    """Have the current call be the thread that it runs in: in name, and in thread-local data. Never parks."""
    green = current_green()
    if green is not None:
        green.identity = _ThreadsOwn()


def current_identity() -> GreenIdentity | None:
    """Look up who sync green code is; None in native code, where async code runs, and for a thread's own program."""
    green = current_green()
    if green is None or green.visible:
        return None
    found: Any = green.identity
    if found is None:
        found = green.identity = GreenIdentity()
    elif found.__class__ is _ThreadsOwn:
        return None
    return found  # type: ignore[no-any-return]


def _holder() -> GreenIdentity | None:
    """Look up whose values the caller sees; None for those of the thread."""
    found = current_identity()
    return _forked_identity() if found is None and _is_child else found


_is_child = False


def _note_child() -> None:
    global _is_child
    _is_child = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_child)


def _forked_identity() -> GreenIdentity | None:
    green = forked_green()
    if green is None or green.visible or green.host is None:
        return None
    found: Any = green.identity
    if found is None:
        found = green.identity = GreenIdentity()
    return None if found.__class__ is _ThreadsOwn else found


_Native: Any = _original.local
_native_get = _Native.__getattribute__
_native_set = _Native.__setattr__
_native_delete = _Native.__delattr__
_native_new = _Native.__new__
_plain_get = object.__getattribute__
_vars_of: Callable[[type], Mapping[str, Any]] = vars(type)["__dict__"].__get__
_mro_of: Callable[[type], tuple[type, ...]] = vars(type)["__mro__"].__get__

_Arguments: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]
_Tables: TypeAlias = dict[GreenIdentity, dict[str, Any]]
_NO_ARGUMENTS: Final[_Arguments] = ((), {})


class local(_Native):  # type: ignore[misc]  # noqa: N801  # as the native one is called
    """Thread-local data, and in sync green code a greenlet's own. `threading.local` says the rest."""

    __slots__ = ("_greenio_arguments", "_greenio_tables")

    def __new__(cls, /, *args: Any, **kwargs: Any) -> Any:
        identity = _holder()
        if identity is None or cls.__init__ is object.__init__:
            self = _native_new(cls, *args, **kwargs)
        else:
            self = _make_elsewhere(cls, args, kwargs)
        if issubclass(cls, local):  # not so in a class that is older and was given this method
            _set_arguments(self, (args, kwargs) if args or kwargs else _NO_ARGUMENTS)
            _set_tables(self, {})
        if identity is not None:
            _tables(self)[identity] = {}
            identity.note(self)
        return self

    def __getattribute__(self, name: str) -> Any:
        if getcurrent().parent is None or (identity := _holder()) is None:
            return _native_get(self, name)
        return _get(self, name, identity)

    def __setattr__(self, name: str, value: Any) -> None:
        if getcurrent().parent is None or (identity := _holder()) is None:
            _native_set(self, name, value)
        else:
            _set(self, name, value, identity)

    def __delattr__(self, name: str) -> None:
        if getcurrent().parent is None or (identity := _holder()) is None:
            _native_delete(self, name)
        else:
            _delete(self, name, identity)


_METHODS = ("__new__", "__getattribute__", "__setattr__", "__delattr__")
LOCAL_METHODS: Final = {name: vars(local)[name] for name in _METHODS}
"""What a subclass of the native class is given that is older than the patch."""


class OldLocal(local):
    """A local around one that is older than the patch, which goes on keeping the values of threads."""

    __slots__ = ("_greenio_old",)

    def __new__(cls, old: Any, /) -> Any:
        self = super().__new__(cls)
        _set_old(self, old)
        _set_tables(self, _tables(old))
        return self

    def __getattribute__(self, name: str) -> Any:
        if getcurrent().parent is None or (identity := _holder()) is None:
            return getattr(_old(self), name)
        return _get(self, name, identity)

    def __setattr__(self, name: str, value: Any) -> None:
        if getcurrent().parent is None or (identity := _holder()) is None:
            setattr(_old(self), name, value)
        else:
            _set(self, name, value, identity)

    def __delattr__(self, name: str) -> None:
        if getcurrent().parent is None or (identity := _holder()) is None:
            delattr(_old(self), name)
        else:
            _delete(self, name, identity)


_old = vars(OldLocal)["_greenio_old"].__get__
_set_old = vars(OldLocal)["_greenio_old"].__set__
_own_tables: Callable[[Any], _Tables] = vars(local)["_greenio_tables"].__get__
_set_tables = vars(local)["_greenio_tables"].__set__
_own_arguments: Callable[[Any], _Arguments] = vars(local)["_greenio_arguments"].__get__
_set_arguments = vars(local)["_greenio_arguments"].__set__

local.__doc__ = _Native.__doc__
for _class in (local, OldLocal):
    _class.__module__, _class.__name__, _class.__qualname__ = _Native.__module__, _Native.__name__, _Native.__qualname__

_beside: dict[int, tuple[weakref.ref[Any], _Tables]] = {}
"""The values of greens in instances that are older than the patch, by the id of the instance."""


def _tables(owner: Any) -> _Tables:
    """Look up the values that greens have in a local."""
    if issubclass(type(owner), local):
        return _own_tables(owner)
    key = id(owner)
    found = _beside.get(key)
    if found is None:
        found = _beside[key] = (weakref.ref(owner, lambda _: _beside.pop(key, None)), {})
    return found[1]


def _arguments(owner: Any) -> _Arguments:
    """Look up what `__init__` is to be called with: the native class shows that to the collector only."""
    if issubclass(type(owner), local):
        return _own_arguments(owner)
    referents = gc.get_referents(owner)
    shown = referents[referents.index(type(owner)) + 1 :]
    args = shown[0] if shown and type(shown[0]) is tuple else ()
    # The dict of the keywords, if there are any, stands before that of the values of threads.
    kwargs = shown[1] if len(shown) > 2 and type(shown[1]) is type(shown[2]) is dict else {}
    return args, kwargs


def _make_elsewhere(cls: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Make a local in a thread that ends at once.

    The native one takes it that `__init__` is being called for the thread in which it is made. Green code calls it for
    the green, and this thread is to have its own turn when native code first comes by.
    """
    outcome: list[Any] = []
    made = _original.allocate_lock()
    made.acquire()

    def make() -> None:
        try:
            outcome.append((_native_new(cls, *args, **kwargs), None))
        except BaseException as caught:
            outcome.append((None, caught))
        finally:
            made.release()

    _original.start_new_thread(make, ())
    made.acquire()
    self, error = outcome.pop()
    if error is None:
        return self
    try:
        raise error
    finally:
        del error


def _begin(self: Any, identity: GreenIdentity) -> dict[str, Any]:
    """Begin with no values, as a thread does that has not used this local yet, but for what `__init__` sets."""
    values = _tables(self)[identity] = {}
    identity.note(_old(self) if type(self) is OldLocal else self)
    init = type(self).__init__
    if init is not object.__init__:
        args, kwargs = _arguments(self)
        try:
            init(self, *args, **kwargs)
        except BaseException:
            _tables(self).pop(identity, None)
            raise
    return values


def _get(self: Any, name: str, identity: GreenIdentity) -> Any:
    values = _tables(self).get(identity)
    if values is None:
        values = _begin(self, identity)
    if name == "__dict__":
        return values
    if name not in values:
        return _plain_get(self, name)  # of the class: an instance has no other dict
    attribute = _data_descriptor(self, name)
    return values[name] if attribute is None else type(attribute).__get__(attribute, self, type(self))


def _set(self: Any, name: str, value: Any, identity: GreenIdentity) -> None:
    values = _values_to_change(self, name, identity)
    attribute = _data_descriptor(self, name)
    if attribute is None:
        values[name] = value
    else:
        type(attribute).__set__(attribute, self, value)


def _delete(self: Any, name: str, identity: GreenIdentity) -> None:
    values = _values_to_change(self, name, identity)
    attribute = _data_descriptor(self, name)
    if attribute is not None:
        type(attribute).__delete__(attribute, self)
    elif name in values:
        del values[name]
    else:
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)


def _values_to_change(self: Any, name: str, identity: GreenIdentity) -> dict[str, Any]:
    if name == "__dict__":
        raise AttributeError(f"{type(self).__name__!r} object attribute '__dict__' is read-only")
    values = _tables(self).get(identity)
    return _begin(self, identity) if values is None else values


def _data_descriptor(self: Any, name: str) -> Any:
    """Look up what comes before the values of an instance: a property, a slot."""
    for base in _mro_of(type(self)):
        namespace = _vars_of(base)
        if name in namespace:
            found = namespace[name]
            kind = type(found)
            return found if hasattr(kind, "__set__") or hasattr(kind, "__delete__") else None
    return None
