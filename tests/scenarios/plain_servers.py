"""A program of threads and no loop: socketserver, http.server and urllib, after patch_all()."""

import http.server
import socket
import socketserver
import threading
import urllib.error
import urllib.request

from greenio import monkey

monkey.patch_all()


class Upper(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line.upper())


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/" else 404)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"page")

    def log_message(self, *args):
        pass


def serving(server):
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    return thread


with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Upper) as server:
    thread = serving(server)
    for _ in range(5):
        with socket.create_connection(server.server_address, timeout=10) as client, client.makefile("rwb") as file:
            file.write(b"one\ntwo\n")
            file.flush()
            assert [file.readline(), file.readline()] == [b"ONE\n", b"TWO\n"]
    server.shutdown()
    thread.join()

with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
    thread = serving(server)
    url = f"http://127.0.0.1:{server.server_port}/"
    for _ in range(5):
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert answer.read() == b"page"
    code = 0
    try:
        urllib.request.urlopen(url + "missing", timeout=10)
    except urllib.error.HTTPError as error:
        code = error.code
        error.close()
    assert code == 404
    server.shutdown()
    thread.join()

print("ok")
