"""A FastAPI application, tested by blocking code on its own loop: requests asks it, SQLAlchemy looks into its database.

Run it by pytest, or as a program: `python examples/test_orders.py`. The tests are sync, and green by
`@pytest.mark.greenio`. They, the application and what it waits for take turns in one thread. The database is
MariaDB through PyMySQL where that answers, and SQLite in memory elsewhere; with CI=true it has to be MariaDB.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import requests
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel
from sqlalchemy import Engine, create_engine, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import StaticPool

import stage
from greenio import in_greenlet, monkey, sync_to_async

pytestmark = pytest.mark.greenio


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = f"greenio_example_tested_orders_{os.getpid()}"
    id: Mapped[int] = mapped_column(primary_key=True)
    amount: Mapped[int]


class NewOrder(BaseModel):
    amount: int


def application(engine: Engine) -> FastAPI:
    """Make the application; its views are async, and what it asks of the database is blocking code."""
    served: set[int] = set()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await sync_to_async(Base.metadata.create_all)(engine)
        yield
        await sync_to_async(Base.metadata.drop_all)(engine)

    app = FastAPI(lifespan=lifespan)
    app.state.served = served

    @sync_to_async
    def insert(amount: int) -> int:
        served.add(threading.get_native_id())
        with Session(engine) as session, session.begin():
            made = Order(amount=amount)
            session.add(made)
            session.flush()
            return made.id

    @sync_to_async
    def find(number: int) -> Order | None:
        with Session(engine) as session:
            return session.get(Order, number)

    @app.post("/orders", status_code=201)
    async def order(new: NewOrder) -> dict[str, int]:
        return {"id": await insert(new.amount)}

    @app.get("/orders/{number}")
    async def look_up(number: int) -> dict[str, int]:
        await asyncio.sleep(0.01)
        found = await find(number)
        if found is None:
            raise HTTPException(404)
        return {"id": found.id, "amount": found.amount}

    return app


@pytest.fixture(scope="session", autouse=True)
def patches() -> Iterator[None]:
    """Patch for the whole run, before anything is connected."""
    with monkey.patched():
        yield


@pytest.fixture
def engine() -> Iterator[Engine]:
    """Connect by a blocking driver; a fixture of a green test is green too."""
    assert in_greenlet()
    if stage.answers("127.0.0.1", 3306):
        made = create_engine("mysql+pymysql://root@127.0.0.1/test?ssl_disabled=1")
    elif os.environ.get("CI") == "true":
        pytest.fail("MariaDB does not answer on 127.0.0.1:3306")
    else:
        made = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    yield made
    made.dispose()


@pytest.fixture
def app(engine: Engine) -> FastAPI:
    return application(engine)


@pytest.fixture
def url(app: FastAPI, serve: Callable[[Any], str]) -> str:
    return serve(app)


def test_order_is_in_the_database(url: str, app: FastAPI, engine: Engine) -> None:
    answer = requests.post(f"{url}/orders", json={"amount": 42}, timeout=10)
    assert answer.status_code == 201
    with Session(engine) as session:
        assert session.get_one(Order, answer.json()["id"]).amount == 42
    assert app.state.served == {threading.get_native_id()}  # all of it in the thread of the test


def test_what_is_in_the_database_is_shown(url: str, engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        session.add(Order(id=7, amount=6))
    assert requests.get(f"{url}/orders/7", timeout=10).json() == {"id": 7, "amount": 6}
    assert requests.get(f"{url}/orders/8", timeout=10).status_code == 404


@pytest.mark.parametrize("amounts", [[1, 2, 3], []])
def test_total(url: str, engine: Engine, amounts: list[int]) -> None:
    with requests.Session() as client:
        for amount in amounts:
            assert client.post(f"{url}/orders", json={"amount": amount}, timeout=10).status_code == 201
    with Session(engine) as session:
        assert session.scalar(select(func.sum(Order.amount))) == (sum(amounts) or None)


def test_wrong_order_is_refused(url: str, engine: Engine) -> None:
    assert requests.post(f"{url}/orders", json={"amount": "many"}, timeout=10).status_code == 422
    with Session(engine) as session:
        assert session.scalar(select(func.count(Order.id))) == 0


if __name__ == "__main__":
    options = stage.arguments(__doc__).parse_args()
    factory = "uvloop" if options.loop == "uvloop" else ""
    settings = ["-p", "no:cacheprovider", "-p", "no:asyncio", "-o", f"greenio_loop_factory={factory}", "-W", "error"]
    command = [sys.executable, "-m", "pytest", __file__, "-q", "-c", os.devnull, "--rootdir", os.path.dirname(__file__)]
    sys.exit(subprocess.run([*command, *settings], check=False).returncode)
