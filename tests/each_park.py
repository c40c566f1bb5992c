"""Act at exactly the n-th park: what a test needs to run a scenario once for each of its parks."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from greenio._core import Green, _await, _green

__all__ = ["acting_at"]


def acting_at(
    patches: pytest.MonkeyPatch,
    number: int,
    act: Callable[[Green], object],
    counts: Callable[[Green], bool] = lambda green: True,
) -> list[int]:
    """Call `act` with the green that is about to park, at the n-th park that goes through the kernel's own way out.

    Args:
        patches: Undoes it.
        number: The park; one that never comes only counts.
        act: What to call.
        counts: Whether the parks of a green count.

    Returns:
        A list with the number of parks so far.
    """
    count = [0]
    native = _green.switch_out

    def switch_out(green: Green, deadline: float | None, mark: int) -> object:
        if counts(green):
            count[0] += 1
            if count[0] == number:
                act(green)
        return native(green, deadline, mark)

    patches.setattr(_green, "switch_out", switch_out)
    patches.setattr(_await, "switch_out", switch_out)
    return count
