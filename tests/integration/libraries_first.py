"""A script for a fresh interpreter: libraries, connections, sessions and TLS contexts that are older than the patch."""

from __future__ import annotations

import asyncio
import smtplib
import socket
import sys
import urllib.request
from contextlib import closing
from time import sleep

import pg8000.dbapi
import pika
import pymysql
import redis
import requests
import uvloop

SESSION = requests.Session()
REDIS = redis.Redis()
REDIS.ping()
MARIADB = pymysql.connect(host="127.0.0.1", user="root", database="test")
POSTGRES = pg8000.dbapi.connect("postgres", host="127.0.0.1", database="test")
RABBITMQ = pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1"))
PAIR = socket.socketpair()

from greenio import monkey, to_greenlet  # noqa: E402
from integration.servers import Heartbeat, http_server, smtp_server  # noqa: E402

monkey.patch_all()


def old_mariadb() -> None:
    with closing(MARIADB), MARIADB.cursor() as cursor:
        cursor.execute("SELECT SLEEP(0.2)")
        assert cursor.fetchall() == ((0,),)


def old_postgres() -> None:
    with closing(POSTGRES):
        cursor = POSTGRES.cursor()
        cursor.execute("SELECT pg_sleep(0.2)::text")
        cursor.fetchall()


def old_rabbitmq() -> None:
    with closing(RABBITMQ):
        channel = RABBITMQ.channel()
        queue = channel.queue_declare("", exclusive=True).method.queue
        assert next(channel.consume(queue, inactivity_timeout=0.2)) == (None, None, None)


def old_redis(number: int) -> None:
    assert REDIS.blpop(f"greenio:nothing:{number}", timeout=0.2) is None


def old_pair() -> None:
    assert PAIR[0].recv(10) == b"hello"


def mail(port: int) -> None:
    with smtplib.SMTP("127.0.0.1", port, local_hostname="test") as client:
        client.sendmail("a@example.org", "b@example.org", b"Subject: hello\r\n\r\nhello")


def page(url: str) -> None:
    assert SESSION.get(url, timeout=20).text == "/slow/0.2"
    with urllib.request.urlopen(url, timeout=20) as answer:
        assert answer.read() == b"/slow/0.2"


async def main() -> None:
    inbox: list[bytes] = []
    async with http_server() as web, smtp_server(inbox, delay=0.2) as post, Heartbeat(at_least=10) as heart:
        asyncio.get_running_loop().call_later(0.2, PAIR[1].send, b"hello")
        calls = [to_greenlet(fn) for fn in (old_mariadb, old_postgres, old_rabbitmq, old_pair)]
        calls += [to_greenlet(sleep, 0.2)]
        for number in range(20):
            calls += [to_greenlet(old_redis, number), to_greenlet(mail, post)]
            calls += [to_greenlet(page, f"http://127.0.0.1:{web}/slow/0.2")]
        await asyncio.gather(*calls)
    assert len(inbox) == 20
    print(f"{len(calls)} calls; the loop was late by less than two seconds, {heart.largest < 2}")


(uvloop.run if sys.argv[1] == "uvloop" else asyncio.run)(main())
REDIS.close()
SESSION.close()
for end in PAIR:
    end.close()
