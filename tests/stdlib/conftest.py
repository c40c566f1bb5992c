"""What differs for the tests of this folder."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_leaks() -> None:
    """Nothing of greenio's runs in this process; pipes to others are no leaks."""
