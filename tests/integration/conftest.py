"""The real servers. Where one does not answer its tests skip and say so; with CI=true they fail."""

from __future__ import annotations

import os
import socket

import pytest

from .servers import ADDRESSES


def _require(name: str) -> tuple[str, int]:
    address = ADDRESSES[name]
    try:
        socket.create_connection(address, timeout=2).close()
    except OSError as error:
        message = f"{name} does not answer at {address[0]}:{address[1]} ({error})"
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(f"{message}, and CI is set")
        pytest.skip(message)
    return address


@pytest.fixture(scope="session")
def redis_server() -> tuple[str, int]:
    """Host and port of the real Redis."""
    return _require("redis")


@pytest.fixture(scope="session")
def mariadb() -> tuple[str, int]:
    """Host and port of the real MariaDB, with a database `test` that root may use without a password."""
    return _require("mariadb")


@pytest.fixture(scope="session")
def postgres() -> tuple[str, int]:
    """Host and port of the real PostgreSQL, which trusts `postgres` on the database `test`."""
    return _require("postgres")


@pytest.fixture(scope="session")
def rabbitmq() -> tuple[str, int]:
    """Host and port of the real RabbitMQ, with guest/guest."""
    return _require("rabbitmq")
