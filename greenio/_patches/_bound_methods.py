"""Methods that other code bound before the patch, as in `self._recv = sock.recv`: the native one for good.

A method is found anew at each call, but not by such code. Where what it bound has a name (a global one, an attribute of
a class or an instance), the green method, bound to the same object, takes its place.
"""

from __future__ import annotations

import gc
import types
from collections.abc import Collection, Iterable, Iterator
from typing import Any
from weakref import ref

from ._old_objects import Look
from ._references import Exchange, Reference, Swap, class_name, instance_vars

__all__ = ["exchange_attributes", "swaps_of_bound"]


def swaps_of_bound(methods: Iterable[Any], swaps: Iterable[Swap]) -> Iterator[Swap]:
    """Find what was bound of native methods that are exchanged.

    Args:
        methods: All bound methods that there are.
        swaps: The native methods, as their classes have them, and what takes their place.

    Yields:
        For each bound one what takes its place.
    """
    natives: dict[int | str, list[Swap]] = {}
    for swap in swaps:
        # What is bound of a method in C does not tell which that is, but only its name.
        key = swap.old.__name__ if type(swap.old) is types.MethodDescriptorType else id(swap.old)
        natives.setdefault(key, []).append(swap)
    for method in methods:
        key = id(method.__func__) if type(method) is types.MethodType else method.__name__
        if key in natives:
            owners = {*map(id, type(method.__self__).__mro__)}
            for swap in natives[key]:
                if id(swap.owner) in owners:
                    new = types.MethodType(swap.new, method.__self__)
                    yield Swap(method, new, swap.target, frozenset(), bound_of=swap.old)
                    break


def exchange_attributes(swaps: Collection[Swap], look: Look) -> Iterator[Exchange]:
    """Exchange objects in the attributes of instances.

    Args:
        swaps: What to exchange by what.
        look: Where to find instances.

    Yields:
        What was exchanged, each right after it was, so that a failure leaves nothing unknown.
    """
    if not swaps:
        return
    by_id = {id(swap.old): swap for swap in swaps}
    for instance in look.instances:
        if not _may_hold(instance, by_id) or (namespace := instance_vars(instance)) is None:
            continue
        try:
            owner = ref(instance)
        except TypeError:
            continue
        for key, value in tuple(namespace.items()):
            swap = by_id.get(id(value))
            if swap is not None and type(key) is str:
                namespace[key] = swap.new
                module, name = class_name(type(instance))
                reference = Reference(swap.target, module, f"{name}.{key}", "instance")
                yield swap.noted(reference, owner, key, value)


def _may_hold(instance: Any, by_id: dict[int, Swap]) -> bool:
    """Tell quickly that an instance has no attribute in question."""
    held = gc.get_referents(instance)  # with the dict, or from CPython 3.11 on the values themselves
    if not by_id.keys().isdisjoint(map(id, held)):
        return True
    dicts = [each for each in held if type(each) is dict]
    return any(not by_id.keys().isdisjoint(map(id, tuple(each.values()))) for each in dicts)
