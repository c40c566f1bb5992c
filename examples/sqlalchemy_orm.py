"""SQLAlchemy's ordinary, blocking ORM in 50 greenlets at once: PyMySQL where MariaDB answers, else SQLite.

Two things to know. A greenlet that waits for a connection of an exhausted pool waits in a lock, so give the engine a
pool as large as the number of calls at once. And connect once before the crowd comes: SQLAlchemy gets to know a server
under a lock, with the first connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, ForeignKey, create_engine, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import stage
from greenio import monkey, offload, to_greenlet

AT_ONCE = 50


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = f"greenio_example_customers_{os.getpid()}"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


class Order(Base):
    __tablename__ = f"greenio_example_orders_{os.getpid()}"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[int] = mapped_column(ForeignKey(Customer.id))
    amount: Mapped[int]


def order(engine: Engine, number: int) -> bool:
    """One blocking transaction, as in any other program; tells whether it saw what it wrote."""
    with Session(engine) as session, session.begin():
        session.add(Customer(id=number))
        session.flush()
        session.add(Order(customer=number, amount=number * 10))
        session.flush()
        found = session.scalars(select(Order.amount).where(Order.customer == number)).all()
    return found == [number * 10]


def in_thread(fn: Callable[..., Any], *args: Any) -> Any:
    return offload(fn, *args)  # SQLite is C code over files, and cannot park


def directly(fn: Callable[..., Any], *args: Any) -> Any:
    return fn(*args)


def prepare(engine: Engine) -> None:
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)


def summary(engine: Engine) -> tuple[int, int]:
    with Session(engine) as session:
        return session.scalar(select(func.count(Order.id))), session.scalar(select(func.count(Customer.id)))


async def main(engine: Engine, call: Callable[..., Any]) -> None:
    await to_greenlet(call, prepare, engine)
    seen = await asyncio.gather(*(to_greenlet(call, order, engine, number) for number in range(AT_ONCE)))
    orders, customers = await to_greenlet(call, summary, engine)
    print(f"{orders} orders of {customers} customers, {engine.pool.checkedin()} connections, on {engine.dialect.name}")
    print("each saw its own" if all(seen) else "some did not see what they wrote")
    await to_greenlet(call, Base.metadata.drop_all, engine)
    await to_greenlet(call, engine.dispose)


@contextlib.contextmanager
def database(*, embedded: bool) -> Iterator[tuple[Engine, Callable[..., Any]]]:
    if not embedded and stage.answers("127.0.0.1", 3306):
        yield create_engine("mysql+pymysql://root@127.0.0.1/test?ssl_disabled=1", pool_size=AT_ONCE), directly
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "orders.sqlite"
        yield create_engine(f"sqlite:///{path}", connect_args={"timeout": 30}, pool_size=AT_ONCE), in_thread


if __name__ == "__main__":
    parser = stage.arguments(__doc__)
    parser.add_argument("--embedded", action="store_true", help="look for no real server")
    options = parser.parse_args()
    monkey.patch_all()
    with database(embedded=options.embedded) as (engine, call):
        stage.run(main, engine, call, loop=options.loop)
