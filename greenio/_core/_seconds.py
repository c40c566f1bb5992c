"""What the public functions take as a number of seconds."""

from __future__ import annotations

__all__ = ["check_seconds"]


def check_seconds(call: str, seconds: object) -> None:
    """Refuse what no clock can wait for.

    Args:
        call: What the user called, as in "timeout()".
        seconds: What was given.

    Raises:
        TypeError: It is neither a number nor None.
        ValueError: It is NaN, which is neither before nor after any time.
    """
    if seconds is None:
        return
    if not hasattr(seconds, "__float__"):
        raise TypeError(f"{call} takes a number of seconds or None, not {seconds!r}")
    if seconds != seconds:  # NaN alone is not equal to itself
        raise ValueError(f"{call} takes a number of seconds or None, not NaN (not a number)")
