"""`python -m greenio`: an unmodified program runs as the interpreter would run it, and its blocking calls park."""

from __future__ import annotations

import os
import py_compile
import resource
import signal
import subprocess
import sys
import textwrap
import time
import zipfile

import pytest

LOOPS = ["asyncio", "uvloop"]
NATIVE = ()


@pytest.fixture(params=LOOPS)
def loop_option(request):
    return ("-m", "greenio", "--loop", request.param)


def python(*words, cwd, code=None, stdin=None):
    # Not the checkout, but what is installed: so the directory is another.
    return subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=50,
        cwd=cwd,
        input=stdin,
        check=False,
    )


@pytest.fixture
def write(tmp_path):
    def write(text, name="program.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    return write


def same(write, tmp_path, loop_option, native, green=None):
    """Run a command line natively and green; return both."""
    found = [
        python(*prefix, *words, cwd=tmp_path) for prefix, words in ((NATIVE, native), (loop_option, green or native))
    ]
    first, second = ((done.returncode, done.stdout) for done in found)
    assert first == second, [done.stderr for done in found]
    return found


WORLD = """
    import sys, __main__
    print(sys.argv, __name__, __main__.__dict__ is globals(), sys.path[0])
    names = ("__file__", "__cached__", "__package__", "__doc__")
    print({name: globals().get(name) for name in names}, type(globals().get("__loader__")).__name__)
    print(__spec__ and __spec__.name)
    import threading, signal
    print(threading.current_thread() is threading.main_thread(), threading.get_ident() == threading.main_thread().ident)
    print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""


def test_world_of_a_script(write, tmp_path, loop_option):
    write(WORLD, "sub/program.py")
    done, green = same(write, tmp_path, loop_option, ["sub/program.py", "one", "--debug", "-m"])
    assert "'--debug', '-m'" in green.stdout
    assert green.stderr == ""
    same(write, tmp_path, loop_option, [tmp_path / "sub" / "program.py"])


def test_world_of_a_module_and_a_package(write, tmp_path, loop_option):
    write(WORLD, "module.py")
    write("", "package/__init__.py")
    write(WORLD, "package/__main__.py")
    write("", "package/inner/__init__.py")
    write("from .. import __main__\nfrom . import __name__ as n; print(n, __name__)", "package/inner/tool.py")
    for name in ("module", "package", "package.inner.tool"):
        same(write, tmp_path, loop_option, ["-m", name, "x", "-c"])


IMPORTED = """
    import sys, time, threading, __main__
    print(sys.argv, [name for name in ("greenio",) if name in __main__.__dict__])
    thread = threading.Thread(target=time.sleep, args=[0.01])
    thread.start()
    thread.join()
"""


def test_the_packages_of_a_module_are_the_programs(write, tmp_path, loop_option):
    write(IMPORTED, "package/__init__.py")
    write("import sys; print(sys.argv[1:])", "package/__main__.py")
    write("import sys; print(sys.argv[1:])", "package/module.py")
    same(write, tmp_path, loop_option, ["-m", "package", "one", "-m"])
    same(write, tmp_path, loop_option, ["-m", "package.module", "one"])


def test_the_packages_of_a_module_are_green_and_patched(write, tmp_path, loop_option):
    write(
        """
        import threading
        from greenio import in_greenlet, monkey
        print(in_greenlet(), monkey.is_patched("time"), type(threading.Lock()) is monkey.original("threading", "Lock"))
        """,
        "package/__init__.py",
    )
    write("", "package/__main__.py")
    done = python(*loop_option, "-m", "package", cwd=tmp_path)
    assert done.stdout == "True True False\n", done.stderr


@pytest.mark.parametrize("code", ["1/0", "import missing_module", "import sys; sys.exit(5)", "raise ValueError(1)"])
def test_a_package_that_cannot_be_imported_says_why(write, tmp_path, code):
    write(code, "package/__init__.py")
    write("", "package/__main__.py")
    native, green = same(write, tmp_path, ("-m", "greenio"), ["-m", "package"])
    head = "Traceback (most recent call last):\n"  # there the interpreter has frames of runpy
    assert green.stderr.startswith(head) == native.stderr.startswith(head)
    assert native.stderr.endswith(green.stderr.removeprefix(head))


def test_packages_and_directories_without_a_main(write, tmp_path):
    write("", "package/__init__.py")
    write("", "space/module.py")
    for name in ("package", "space"):
        done = python("-m", "greenio", "-m", name, cwd=tmp_path)
        told = f"No module named {name}.__main__; {name!r} is a package and cannot be directly executed"
        assert (done.returncode, done.stderr) == (2, f"python -m greenio: {told}\n")
        done = python("-m", "greenio", name, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (2, f"python -m greenio: can't find '__main__' module in {name!r}\n")


def test_world_of_code(write, tmp_path, loop_option):
    same(write, tmp_path, loop_option, ["-c", textwrap.dedent(WORLD), "x"])


ANNOTATED = """
    import dataclasses

    @dataclasses.dataclass
    class Point:
        x: int = 0

    y: int = 0
    print([field.type for field in dataclasses.fields(Point)], globals().get("__annotations__"))
"""


@pytest.mark.parametrize("words", [("program.py",), ("-m", "program"), ("-c", textwrap.dedent(ANNOTATED)), ("-",)])
def test_annotations_are_what_the_program_says(write, tmp_path, words):
    write(ANNOTATED)
    text = textwrap.dedent(ANNOTATED)
    native, green = (python(*prefix, *words, cwd=tmp_path, stdin=text) for prefix in (NATIVE, ("-m", "greenio")))
    assert (green.returncode, green.stdout, green.stderr) == (native.returncode, native.stdout, native.stderr)
    assert native.stdout.startswith("[<class 'int'>]")


def test_directory_and_archive(write, tmp_path, loop_option):
    write("import sys, helper; print(sys.argv, helper.x, sys.path[0])", "app/__main__.py")
    write("x = 1", "app/helper.py")
    with zipfile.ZipFile(tmp_path / "app.zip", "w") as archive:
        for name in ("__main__.py", "helper.py"):
            archive.write(tmp_path / "app" / name, name)
    for name in ("app", "app.zip"):
        same(write, tmp_path, loop_option, [name, "x"])


def test_compiled_file(write, tmp_path, loop_option):
    program = write(WORLD)
    py_compile.compile(program, tmp_path / "program.pyc")
    py_compile.compile(program, tmp_path / "compiled")  # the interpreter looks into it
    program.unlink()
    same(write, tmp_path, loop_option, ["program.pyc", "one"])
    same(write, tmp_path, loop_option, ["compiled", "one"])


def test_compiled_file_of_another_python(tmp_path):
    (tmp_path / "program.pyc").write_bytes(b"1234" + bytes(12))
    done = python("-m", "greenio", "program.pyc", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("python -m greenio: can't run 'program.pyc': bad magic number")


def test_program_from_standard_input(tmp_path, loop_option):
    text = textwrap.dedent(WORLD) + "print(sys.stdin.read())\n1/0\n"
    native, green = (python(*prefix, "-", "one", "-m", cwd=tmp_path, stdin=text) for prefix in (NATIVE, loop_option))
    assert (green.returncode, green.stdout, green.stderr) == (native.returncode, native.stdout, native.stderr)
    assert native.returncode == 1


DEEP = """
    def f():
        g()

    def g():
        raise ValueError("bottom")

    try:
        f()
    except ValueError as error:
        raise KeyError from error
"""
REFUSED = """
    import socket

    def connect():
        socket.create_connection(("127.0.0.1", 9), timeout=5)

    try:
        connect()
    except ConnectionRefusedError as error:
        raise ValueError from error
"""
MISSING = "import subprocess; subprocess.run(['./missing'])"
TIMED_OUT = "import queue; queue.Queue().get(timeout=0.01)"
LOCKED = "import threading; threading.Lock().release()"
WRONG = "import time; time.sleep('1')"
GROUP = """
    import socket, time

    errors = []
    for call in (lambda: time.sleep(-1), lambda: socket.create_connection(("127.0.0.1", 9))):
        try:
            call()
        except Exception as error:
            errors.append(error)
    if "ExceptionGroup" in dir(__builtins__):
        raise ExceptionGroup("both", errors)
    raise errors[1]
"""
THREAD = """
    import threading, time

    threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
    print("main")
"""


@pytest.mark.parametrize(
    "code",
    [
        "import sys; sys.exit()",
        "import sys; sys.exit(7)",
        "import sys; sys.exit('farewell')",
        "raise SystemExit",
        "import os; os._exit(9)",
        "import atexit; atexit.register(print, 'at exit'); raise SystemExit(3)",
        "raise KeyError(1)",
        DEEP,
        REFUSED,
        MISSING,
        TIMED_OUT,
        LOCKED,
        WRONG,
        GROUP,
        "raise KeyboardInterrupt",
        "import sys; sys.excepthook = lambda *a: print('hook', a[0]); 1/0",
        "import sys; sys.excepthook = lambda *a: a[9]; 1/0",
        "import sys; sys.excepthook = None; {}['key']",
        "import sys; sys.excepthook = lambda *a: sys.exit(6); 1/0",
        THREAD,
        "this is no code",
        "import signal, os; signal.signal(signal.SIGINT, signal.SIG_DFL); os.kill(os.getpid(), 2)",
    ],
)
def test_exit_codes_and_tracebacks(write, tmp_path, code):
    write(code)
    native, green = same(write, tmp_path, ("-m", "greenio"), ["program.py"])
    assert green.stderr == native.stderr


def test_the_last_error_is_known_to_what_runs_at_exit(write, tmp_path, loop_option):
    write(
        """
        import atexit, sys
        atexit.register(lambda: print(sys.last_type, repr(sys.last_value), sys.last_traceback.tb_frame.f_code.co_name))
        1/0
        """
    )
    same(write, tmp_path, loop_option, ["program.py"])


def test_traceback_of_code(tmp_path):
    words = ("-c", "def f():\n    1/0\nf()")
    native, green = (python(*prefix, *words, cwd=tmp_path) for prefix in (NATIVE, ("-m", "greenio")))
    assert green.stderr == native.stderr
    assert "ZeroDivisionError" in green.stderr


def test_modules_traceback_shows_nothing_of_greenio(write, tmp_path, loop_option):
    write("def f():\n    1/0\nf()", "module.py")
    _, green = same(write, tmp_path, loop_option, ["-m", "module"])
    assert "greenio" not in green.stderr
    assert "ZeroDivisionError" in green.stderr
    assert green.stderr.count("File ") == 2


def test_it_is_green_and_patched_before_the_first_import(write, tmp_path, loop_option):
    write(
        """
        import socket
        import time
        from time import sleep
        import threading

        import greenio
        from greenio import monkey

        assert greenio.in_greenlet()
        assert monkey.is_patched("time")
        assert sleep is not monkey.original("time", "sleep")
        ticks = []

        async def tick():
            import asyncio
            for _ in range(20):
                await asyncio.sleep(0.001)
                ticks.append(1)

        def start():
            return greenio.get_loop().create_task(tick())

        task = start()
        sleep(0.2)
        assert len(ticks) == 20, ticks
        import asyncio
        print(type(greenio.get_loop()).__module__.partition(".")[0], asyncio.run(asyncio.sleep(0.001, "nested")))
        """
    )
    done = python(*loop_option, "program.py", cwd=tmp_path)
    assert done.stdout.split() == [loop_option[-1], "nested"], done.stderr


def wait_for_line(process, line):
    found = process.stdout.readline()
    assert found == line + "\n", (found, process.stderr.read() if process.poll() is not None else "")


@pytest.mark.parametrize("threads", [False, True])
@pytest.mark.parametrize("caught", [True, False])
def test_ctrl_c(write, tmp_path, loop_option, caught, threads):
    write(
        f"""
        import threading, time
        caught, threads = {caught}, {threads}

        def other():
            time.sleep(100)

        for _ in range(3 * threads):
            threading.Thread(target=other, daemon=True).start()

        try:
            time.sleep(0.01)
            print("ready", flush=True)
            time.sleep(100)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            if not caught:
                raise
        finally:
            print("finally", flush=True)
        """
    )
    command = [sys.executable, *loop_option, *(["--green-threads"] * threads), "program.py"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=-1, stderr=-1, text=True)
    try:
        wait_for_line(process, "ready")
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert out.split() == ["interrupted", "finally"]
    if caught:
        assert (process.returncode, err) == (0, "")
    else:
        assert process.returncode == -signal.SIGINT
        assert "time.sleep(100)" in err
        assert err.rstrip().endswith("KeyboardInterrupt")
        assert "__main__.py" not in err


def test_handlers_of_the_program(write, tmp_path, loop_option):
    write(
        """
        import signal, sys, time

        def leave(signum, frame):
            print("leaving", flush=True)
            sys.exit(4)

        signal.signal(signal.SIGTERM, leave)
        print("ready", flush=True)
        time.sleep(100)
        """
    )
    process = subprocess.Popen(
        [sys.executable, *loop_option, "program.py"], cwd=tmp_path, stdout=-1, stderr=-1, text=True
    )
    try:
        wait_for_line(process, "ready")
        time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, out, err) == (4, "leaving\n", "")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "run takes a script"),
        (["run"], "run takes a script"),
        (["--loop", "trio", "-c", "1"], "--loop takes auto, asyncio or uvloop, not 'trio'"),
        (["--loop"], "--loop takes a value"),
        (["--watchdog", "soon", "-c", "1"], "--watchdog takes a number"),
        (["--watchdog", "0", "-c", "1"], "--watchdog: threshold must be more than 0 seconds"),
        (["--watchdog", "nan", "-c", "1"], "more than 0 seconds"),
        (["--watchdog", "inf", "-c", "1"], "and at most "),
        (["--watchdog", "1e10", "-c", "1"], "and at most "),
        (["--no-patch", "nothing", "-c", "1"], "unknown group 'nothing'"),
        (["--no-patch", "allow_blocking", "-c", "1"], "unknown group 'allow_blocking'"),
        (["--no-patch", "on_blocking", "-c", "1"], "unknown group 'on_blocking'"),
        (["--fast", "x.py"], "unknown option '--fast'"),
        (["missing.py"], "can't open file 'missing.py': [Errno 2]"),
        (["-m", "missing_module"], "No module named missing_module"),
        (["-m"], "-m takes a module"),
        (["-c"], "-c takes code"),
        (["report", "extra"], "report takes no argument"),
        (["report", "--loop", "uvloop"], "report takes no --loop"),
        (["report", "--debug"], "report takes no --debug"),
        (["inspect", "--watchdog=1", "1"], "inspect takes no --watchdog"),
        (["inspect"], "inspect takes a process id"),
        (["inspect", "one"], "inspect takes a process id"),
        (["inspect", "\u00b2"], "inspect takes a process id"),
        (["inspect", "1", "2"], "inspect takes one process id"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(tmp_path, words, text):
    done = python("-m", "greenio", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("python -m greenio: ")
    assert done.stderr.count("\n") == 1
    assert text in done.stderr


def test_watchdog_tells_what_holds_the_loop(write, tmp_path, loop_option):
    write(
        """
        import time

        def holds():
            end = time.monotonic() + 0.5
            while time.monotonic() < end:
                pass

        time.sleep(0.01)
        holds()
        time.sleep(0.01)
        """
    )
    done = python(*loop_option, "--watchdog", "0.1", "program.py", cwd=tmp_path)
    assert done.returncode == 0
    assert "the event loop is held for " in done.stderr
    assert "in holds" in done.stderr


def test_inspect(write, tmp_path):
    write(
        """
        import sys, time
        from greenio import debug

        with debug.listen():
            print("listens", flush=True)
            sys.stdin.readline()
        """
    )
    command = [sys.executable, "-m", "greenio", "program.py"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=tmp_path, text=True, **pipes) as process:
        assert process.stdout.readline() == "listens\n"
        found = python("-m", "greenio", "inspect", str(process.pid), cwd=tmp_path)
        process.stdin.close()
    assert process.returncode == 0
    assert found.returncode == 0, found.stderr
    assert f"process {process.pid}" in found.stdout
    assert "readline" in found.stdout
    gone = python("-m", "greenio", "inspect", str(process.pid), cwd=tmp_path)
    assert gone.returncode == 2
    assert "does not listen" in gone.stderr


def test_report_and_help(tmp_path):
    done = python("-m", "greenio", "report", "--no-patch", "dns", "--no-patch=ssl", cwd=tmp_path)
    assert done.returncode == 0
    assert "time.sleep" in done.stdout
    assert "socket.getaddrinfo" not in done.stdout
    assert "SSLSocket" not in done.stdout
    done = python("-m", "greenio", "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith("usage: python -m greenio")


def test_options_reach_the_loop(write, tmp_path, loop_option):
    write("import greenio; from greenio import monkey; print(greenio.get_loop().get_debug(), monkey.is_patched('dns'))")
    done = python(*loop_option, "--debug", "--no-patch", "dns", "program.py", cwd=tmp_path)
    assert done.stdout == "True False\n", done.stderr


SERVER = """
    import http.server, resource, socketserver, sys, threading, time

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            body = str(threading.active_count()).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 1024

    with Server(("127.0.0.1", 0), Handler) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()
"""

CLIENT = """
    import resource, socket, sys, time

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    port, count = int(sys.argv[1]), int(sys.argv[2])
    request = b"GET / HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n"

    def ask(connection):
        connection.sendall(request)
        answer = b""
        while not (b"\\r\\n\\r\\n" in answer and answer.rpartition(b"\\r\\n\\r\\n")[2]):
            part = connection.recv(4096)
            assert part
            answer += part
        return int(answer.rpartition(b"\\r\\n\\r\\n")[2])

    connections = []
    for number in range(count):
        connection = socket.create_connection(("127.0.0.1", port), timeout=30)
        connections.append(connection)
        most = ask(connection)
    for connection in connections[:: max(1, count // 100)]:
        assert ask(connection) >= count
    print(most)
"""


@pytest.mark.timeout(180)
def test_an_unmodified_threading_server_holds_ten_thousand_connections(write, tmp_path, loop_option):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(10_000, hard - 200 if hard != resource.RLIM_INFINITY else 10_000)
    write(SERVER, "server.py")
    write(CLIENT, "client.py")
    server = subprocess.Popen(
        [sys.executable, *loop_option, "--green-threads", "server.py"], cwd=tmp_path, stdout=-1, text=True
    )
    try:
        port = server.stdout.readline().strip()
        tasks = os.listdir(f"/proc/{server.pid}/task") if os.path.isdir("/proc") else []
        client = subprocess.run(
            [sys.executable, "client.py", port, str(count)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
        assert client.returncode == 0, client.stderr
        assert int(client.stdout) >= count
        assert len(tasks) <= 3
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == -signal.SIGINT
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
