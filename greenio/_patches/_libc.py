"""The C library, for the few system calls that the standard library does not have."""

from __future__ import annotations

from functools import cache
from typing import Any

__all__ = ["find_call"]


@cache
def find_call(name: str) -> tuple[Any, Any] | None:
    """Look up a function of the C library, and ctypes with it; None where there is none."""
    try:
        import ctypes  # noqa: PLC0415 - takes a millisecond, and few programs need it

        libc = ctypes.CDLL(None, use_errno=True)
        return (ctypes, libc) if hasattr(libc, name) else None
    except (ImportError, OSError):  # a CPython that was built without libffi
        return None
