"""Sync faces of async objects: iterators, context managers, and whole objects, used without `await` in green code."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import ModuleType, TracebackType
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from .._core import await_, in_greenlet, trim

__all__ = ["autosync", "enter", "iterate"]

T = TypeVar("T")

_PACKAGE = __name__.rpartition(".")[0]


def _unseen(method: Callable[..., T]) -> Callable[..., T]:
    """Leave a method out of the tracebacks of what it calls, and whatever else of greenio is on the way."""

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> T:
        try:
            return method(*args, **kwargs)
        except BaseException as error:
            trim(error, _PACKAGE)
            raise

    return call


class _Iteration(Iterator[T]):
    """An asynchronous iterator that is stepped by green code."""

    __slots__ = ("_iterator",)

    def __init__(self, iterator: AsyncIterator[T]) -> None:
        self._iterator = iterator

    @_unseen
    def __next__(self) -> T:
        found = await_(_next(self._iterator))
        if found is _END:
            raise StopIteration
        return found  # type: ignore[no-any-return]

    @_unseen
    def close(self) -> None:
        """End an asynchronous generator, as its `aclose` does. May park."""
        close = getattr(self._iterator, "aclose", None)
        if close is not None:
            await_(_call(close))

    def __repr__(self) -> str:
        return f"iterate({self._iterator!r})"


_END: Any = object()


async def _next(iterator: AsyncIterator[Any]) -> Any:
    try:
        return await type(iterator).__anext__(iterator)
    except StopAsyncIteration:
        return _END


async def _call(fn: Callable[..., Any], *args: Any) -> Any:
    """Call and await, both where the host loop is visible: some calls ask for it before they are awaited."""
    return await fn(*args)


def iterate(iterable: AsyncIterable[T]) -> Iterator[T]:
    """Iterate over an asynchronous iterable in green code: `for x in iterate(xs)` is `async for x in xs`. Never parks.

    Each step of the iteration may park. An asynchronous generator that is left early is closed by its loop, as after
    `async for`; `with contextlib.closing(iterate(xs)) as items` closes it at once.

    Args:
        iterable: What `async for` takes.

    Raises:
        TypeError: It is no asynchronous iterable.
    """
    if not hasattr(type(iterable), "__aiter__"):
        raise TypeError(f"iterate() takes an asynchronous iterable, not {iterable!r}")
    return _Iteration(_iterator(iterable))


@_unseen
def _iterator(iterable: AsyncIterable[T]) -> AsyncIterator[T]:
    """Ask for the iterator where the host loop is visible, if there is one: it may begin with a task."""
    method = type(iterable).__aiter__
    return await_(_called(method, (iterable,), {})) if in_greenlet() else method(iterable)


class _Entered(AbstractContextManager[T]):
    """An asynchronous context manager that is entered by green code."""

    __slots__ = ("_manager",)

    def __init__(self, manager: AbstractAsyncContextManager[T, bool | None]) -> None:
        self._manager = manager

    @_unseen
    def __enter__(self) -> T:
        return await_(_call(type(self._manager).__aenter__, self._manager))  # type: ignore[no-any-return]

    @_unseen
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return await_(_call(type(self._manager).__aexit__, self._manager, kind, error, traceback))  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"enter({self._manager!r})"


def enter(manager: AbstractAsyncContextManager[T, bool | None]) -> AbstractContextManager[T]:
    """Use an asynchronous context manager in green code: `with enter(m) as x` is `async with m as x`. Never parks.

    Entering and leaving the block may park.

    Args:
        manager: What `async with` takes.

    Raises:
        TypeError: It is no asynchronous context manager.
    """
    if not hasattr(type(manager), "__aenter__"):
        raise TypeError(f"enter() takes an asynchronous context manager, not {manager!r}")
    return _Entered(manager)


def autosync(obj: Any) -> Any:
    """Wrap an object with async methods for green code, which uses it without `await`. Never parks; its methods may.

    `client = autosync(httpx.AsyncClient())` gives a client whose methods return what they would give when awaited,
    whose asynchronous iterators are iterated by `for`, and whose asynchronous context managers are entered by `with`.
    Everything else is the object's own: attributes are read and set through, `isinstance` holds, and results are
    wrapped only if they have asynchronous methods themselves. What can be awaited *and* entered or iterated
    (`pool.acquire()`) is awaited when it is first used in any other way, by `await_` for instance, and not if nobody
    uses it.

    Args:
        obj: The object.

    Returns:
        A proxy for it. `autosync(proxy)` is the proxy itself.
    """
    if isinstance(type(obj), _ProxyType) or isinstance(obj, type | ModuleType):
        return obj
    return _proxy_class(type(obj))(obj)


class _ProxyType(type):
    """The class of the proxies' classes."""


_TARGET = "_greenio_target"
_get = object.__getattribute__
_set = object.__setattr__


def _target(proxy: Any) -> Any:
    """Look up what a proxy stands for. What had to be awaited first is awaited. May park."""
    target = _get(proxy, _TARGET)
    if _get(proxy, "_greenio_due"):
        _set(proxy, "_greenio_due", False)
        target = await_(target)
        _set(proxy, _TARGET, target)
    return target


def _bare(value: Any) -> Any:
    return _target(value) if isinstance(type(value), _ProxyType) else value


class _Proxy(metaclass=_ProxyType):
    __slots__ = ("__weakref__", "_greenio_due", _TARGET)

    def __init__(self, target: Any, *, due: bool = False) -> None:
        _set(self, _TARGET, target)
        _set(self, "_greenio_due", due)

    @_unseen
    def __getattribute__(self, name: str) -> Any:
        if name == "__class__":
            return _get(self, _TARGET).__class__
        return _face(getattr(_target(self), name))

    @_unseen
    def __setattr__(self, name: str, value: Any) -> None:
        setattr(_target(self), name, _bare(value))

    @_unseen
    def __delattr__(self, name: str) -> None:
        delattr(_target(self), name)

    def __dir__(self) -> list[str]:
        return dir(_target(self))

    def __repr__(self) -> str:
        return f"autosync({_get(self, _TARGET)!r})"


@_unseen
def _enter(self: Any) -> Any:
    target = _get(self, _TARGET)
    entered = await_(_call(type(target).__aenter__, target))
    return self if entered is target else _result(entered)


@_unseen
def _exit(self: Any, *error: Any) -> Any:
    target = _get(self, _TARGET)
    return await_(_call(type(target).__aexit__, target, *error))


class _ResultIteration(_Iteration[Any]):
    """What `for` iterates over, as a proxy's."""

    __slots__ = ()

    @_unseen
    def __next__(self) -> Any:
        return _result(super().__next__())


@_unseen
def _iter(self: Any) -> Any:
    return _ResultIteration(_iterator(_get(self, _TARGET)))


@_unseen
def _step(self: Any) -> Any:
    found = await_(_next(_get(self, _TARGET)))
    if found is _END:
        raise StopIteration
    return _result(found)


def _await(self: Any) -> Generator[Any, Any, Any]:
    """Await for `await_`, at once, what could be entered or iterated as well."""
    target = _get(self, _TARGET)
    if not hasattr(type(target), "__await__"):
        return self  # it was awaited before
    due = _get(self, "_greenio_due")
    _set(self, "_greenio_due", False)
    found = yield from target.__await__()
    if due:
        _set(self, _TARGET, found)
    return _result(found)


_FACES = {"__aenter__": ("__enter__", _enter), "__aexit__": ("__exit__", _exit), "__aiter__": ("__iter__", _iter)}
_FACES["__anext__"] = ("__next__", _step)
"""The methods of `async with` and `async for`, each with what stands for it in sync code."""

_OWN = frozenset(dir(_Proxy)) - {"__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__hash__", "__str__"}
_ASYNC = frozenset((*_FACES, "__await__"))
_PYTHONS = frozenset({"__class_getitem__", "__del__", "__getattr__"})
"""Special methods that a proxy does not pass on. The last ones Python calls for the object itself: a proxy that goes
away must not end what it stands for."""


def _passed_on(name: str) -> Callable[..., Any]:
    """Make a special method that calls the target's."""

    @_unseen
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        target = _target(self)
        return _result(getattr(type(target), name)(target, *map(_bare, args), **kwargs))

    call.__name__ = name
    return call


_classes: WeakKeyDictionary[type, type] = WeakKeyDictionary()


def _proxy_class(kind: type) -> Any:
    """Look up, or make, the class of proxies for objects of one class: special methods are looked up in classes."""
    found = _classes.get(kind)
    if found is None:
        names = [name for name in dir(kind) if name.startswith("__") and name.endswith("__")]
        members: dict[str, Any] = {"__slots__": (), "__module__": kind.__module__, "__qualname__": kind.__qualname__}
        for name in names:
            if name not in _OWN | _ASYNC | _PYTHONS and callable(getattr(kind, name, None)):
                members[name] = _passed_on(name)
        if getattr(kind, "__hash__", None) is None:
            members["__hash__"] = None
        members.update(_FACES[name] for name in names if name in _FACES)
        if "__await__" in names:
            members["__await__"] = _await
        found = _classes[kind] = _ProxyType(kind.__name__, (_Proxy,), members)
    return found


_with_faces: WeakKeyDictionary[type, bool] = WeakKeyDictionary()


def _has_faces(kind: type) -> bool:
    """Tell whether objects of a class have anything that async code would await, iterate or enter."""
    found = _with_faces.get(kind)
    if found is None:
        found = any(name in _ASYNC or _is_async(inspect.getattr_static(kind, name, None)) for name in dir(kind))
        _with_faces[kind] = found
    return found


# Before 3.12 only asyncio has a mark for functions that return coroutines, which compiled code goes on using.
_is_coroutine_function = asyncio.iscoroutinefunction if sys.version_info < (3, 14) else inspect.iscoroutinefunction


def _is_async(member: Any) -> bool:
    member = getattr(member, "__func__", member)
    if inspect.isfunction(member):
        member = inspect.unwrap(member)  # asyncpg's pool gives connections all of whose methods are wrapped
    return _is_coroutine_function(member) or inspect.isasyncgenfunction(member)


def _face(value: Any) -> Any:
    """Wrap what was found as an attribute; a coroutine, which a property may give, is awaited."""
    if inspect.iscoroutine(value):
        return _result(value)
    if isinstance(value, type | ModuleType):
        return value
    if callable(value) and not _has_faces(type(value)):
        return _Function(value)
    return _proxy_class(type(value))(value) if _has_faces(type(value)) else value


def _result(value: Any) -> Any:
    """Await what a call returned, if that can be awaited, and wrap what async code would use further."""
    kind = type(value)
    if isinstance(kind, _ProxyType):
        return value
    if inspect.isawaitable(value):
        if any(hasattr(kind, name) for name in _FACES):
            return _proxy_class(kind)(value, due=True)
        return _result(await_(value))
    if isinstance(value, type | ModuleType):
        return value
    return _proxy_class(kind)(value) if _has_faces(kind) else value


class _Function:
    """A method of the object, to be called without `await`."""

    __slots__ = ("__weakref__", "__wrapped__")

    def __init__(self, function: Callable[..., Any]) -> None:
        self.__wrapped__ = function

    @_unseen
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        bare = {name: _bare(value) for name, value in kwargs.items()}
        bare_args = tuple(map(_bare, args))
        if not in_greenlet():
            return _result(self.__wrapped__(*bare_args, **bare))
        return _result(await_(_called(self.__wrapped__, bare_args, bare)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__wrapped__, name)

    def __eq__(self, other: object) -> bool:
        return bool(self.__wrapped__ == getattr(other, "__wrapped__", other))

    def __hash__(self) -> int:
        return hash(self.__wrapped__)

    def __repr__(self) -> str:
        return f"autosync({self.__wrapped__!r})"


async def _called(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call where the host loop is visible; what is a coroutine, is awaited in the same place."""
    found = function(*args, **kwargs)
    return await found if inspect.iscoroutine(found) else found
