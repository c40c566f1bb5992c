"""Pools of threads and processes, forked and spawned, from a patched parent."""

import concurrent.futures
import multiprocessing
import os
import pickle
import socket
import time

from greenio import monkey


def nap(seconds):
    time.sleep(seconds)
    return os.getpid()


def talk(connection):
    while (word := connection.recv()) is not None:
        connection.send(word.upper())


def is_patched():
    return monkey.is_patched("time.sleep")


def through_a_socket(sock):
    with sock:
        sock.sendall(b"from the child")


def converse(context):
    here, there = context.Pipe()
    child = context.Process(target=talk, args=(there,))
    child.start()
    for word in ("one", "two"):
        here.send(word)
        assert here.recv() == word.upper()
    here.send(None)
    child.join()
    assert child.exitcode == 0
    here.close()
    there.close()
    a, b = socket.socketpair()
    child = context.Process(target=through_a_socket, args=(b,))
    child.start()
    b.close()
    with a:
        assert a.recv(100, socket.MSG_WAITALL) == b"from the child"
    child.join()
    assert child.exitcode == 0
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        assert os.getpid() not in pool.map(nap, [0.01] * 4)
        assert pool.submit(time.sleep, 0.01).result() is None
        assert pool.submit(is_patched).result() is (context.get_start_method() == "fork")


if __name__ == "__main__":
    monkey.patch_all()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert set(pool.map(nap, [0.01] * 20)) == {os.getpid()}
    assert pickle.loads(pickle.dumps(time.sleep)) is time.sleep
    converse(multiprocessing.get_context("spawn"))
    converse(multiprocessing.get_context("fork"))
    print("ok")
