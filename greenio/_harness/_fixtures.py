"""Sync fixtures made green: in pieces that the plugin runs, or as async fixtures, which anyio's plugin drives."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import AbstractContextManager
from typing import Any, cast

import pytest

from ._pieces import Contexts, run_within

__all__ = ["as_async_fixture", "bound", "entered_around", "in_pieces"]


def bound(function: Callable[..., Any], instance: object) -> Callable[..., Any]:
    """Bind a fixture that is a method to the instance that its test is called on, as pytest itself does."""
    owner = getattr(function, "__self__", None)
    if inspect.ismethod(function) and instance is not None and isinstance(instance, type(owner)):
        return cast("Callable[..., Any]", function.__func__.__get__(instance))
    return function


_END = object()


def _next(generator: Any) -> Any:
    return next(generator, _END)


async def _next_of_async(generator: Any) -> Any:
    try:
        return await generator.__anext__()
    except StopAsyncIteration:
        return _END


def in_pieces(function: Callable[..., Any], run: Callable[..., Any]) -> Callable[..., Any]:
    """Make a fixture function each half of which is a piece."""
    step: Callable[[Any], Any] = _next_of_async if inspect.isasyncgenfunction(function) else _next
    if step is _next and not inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def plain(**arguments: Any) -> Any:
            __tracebackhide__ = True
            return run(functools.partial(function, **arguments))

        return plain

    @functools.wraps(function)
    def halves(**arguments: Any) -> Generator[Any, None, None]:
        __tracebackhide__ = True
        generator = function(**arguments)
        while (value := run(step, generator)) is not _END:
            yield value  # a second time if the fixture does, for pytest to say so

    return halves


def as_async_fixture(
    function: Callable[..., Any], request: pytest.FixtureRequest, contexts: Contexts
) -> Callable[..., AsyncIterator[Any]]:
    """Make an async fixture of a sync one, whose halves and finalizers are green on the loop that drives it."""
    finalizers = contextlib.ExitStack()
    run = functools.partial(run_within, contexts)

    @contextlib.contextmanager
    def first_half() -> Iterator[None]:
        # Not for longer: pytest itself adds one then, that drives the second half.
        setattr(request, "addfinalizer", finalizers.callback)  # noqa: B010  # a method, to type checkers
        try:
            yield
        finally:
            del request.addfinalizer

    async def halves(**arguments: Any) -> AsyncIterator[Any]:
        __tracebackhide__ = True
        try:
            with first_half():
                value = await run(functools.partial(function, **arguments))
                generator = value if inspect.isgeneratorfunction(function) else None
                if generator is not None:
                    value = await run(_next, generator)
            while value is not _END:
                yield value
                value = _END if generator is None else await run(_next, generator)
        finally:
            await run(finalizers.close)

    return halves


def entered_around(
    function: Callable[..., Any], around: Callable[[], AbstractContextManager[object]]
) -> Callable[..., Any]:
    """Make an async fixture function of which each half runs within a context."""
    if not inspect.isasyncgenfunction(function):

        @functools.wraps(function)
        async def whole(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            with around():
                return await function(*args, **kwargs)

        return whole

    @functools.wraps(function)
    async def halves(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        __tracebackhide__ = True
        generator = function(*args, **kwargs)
        while True:
            with around():
                value = await _next_of_async(generator)
            if value is _END:
                return
            yield value

    return halves
