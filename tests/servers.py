"""Servers on loopback for the tests of shared storage: moto's S3, HTTP with ETags, and a proxy that cuts."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY, SECRET = "AKIATESTKEY", "sEcReT/of+a/test"

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class Proxy:
    """A TCP proxy that counts the bytes of both directions, and can cut a connection or be away.

    Attributes:
        port: Where it listens.
        received: Bytes that clients got.
        sent: Bytes that clients sent.
        cut_after: A connection is reset once so many bytes have gone to the client over it; None for never.
        cuts: How many are left to be made.
        on_bytes: Is called with `received` whenever it grows.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listening: socket.socket | None = None
        self._lock = threading.Lock()
        self.port = 0
        self.open()

    def open(self) -> None:
        """Take connections, from now on, and begin anew in everything."""
        self.close()
        self.received = self.sent = self.cuts = 0
        self.cut_after: int | None = None
        self.on_bytes: Any = None
        self._listening = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def count(self) -> int:
        """Return the bytes of both directions since the last count, and begin anew."""
        with self._lock:
            total, self.received, self.sent = self.received + self.sent, 0, 0
        return total

    def close(self) -> None:
        """Refuse connections from now on."""
        if self._listening is not None:
            with suppress(OSError):
                self._listening.shutdown(socket.SHUT_RDWR)
            self._listening.close()

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            threading.Thread(target=self._pump, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, True), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, to_client: bool) -> None:
        over = 0
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
                over += len(data)
                with self._lock:
                    if to_client:
                        self.received += len(data)
                    else:
                        self.sent += len(data)
                    cut = (
                        to_client and self.cuts > 0 and self.cut_after is not None and over >= self.cut_after
                    )
                    self.cuts -= cut
                if to_client and self.on_bytes is not None:
                    self.on_bytes(self.received)
                if cut:
                    break
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


@contextmanager
def s3_server() -> Iterator[int]:
    """Run moto's S3 server, and give its port."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield server.get_host_and_port()[1]
    finally:
        server.stop()


class Files(ThreadingHTTPServer):
    """An HTTP server of files in memory, with ETags and ranges.

    Attributes:
        contents: By path, such as `/set/a.parquet`.
        ranges: False to give all of a file whatever is asked.
        lengths: False to end a file by closing the connection, and to say no length.
        tags: False to say neither ETag nor time.
        closed: A path that nobody may read.
        stalls: How many answers begin and then stall.
        silent: Where it is set, an event that the next answer waits for before its first byte.
        status: What is answered in place of a file; None for the file.
        log: Method, path and range of each request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.contents: dict[str, bytes] = {}
        self.ranges = self.tags = self.lengths = True
        self.stalls = 0
        self.silent: threading.Event | None = None
        self.closed = ""
        self.status: int | None = None
        self.log: list[tuple[str, str, str]] = []

    @property
    def url(self) -> str:
        """Where it is, without a slash at the end."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Files

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path, asked = self.path.partition("?")[0], self.headers.get("Range", "")
        self.server.log.append((self.command, path, asked))
        if self.server.silent is not None:
            self.server.silent.wait(30)
        content = self.server.contents.get(path)
        status = self.server.status or (404 if content is None else 200)
        status = 403 if path == self.server.closed else status
        content = b"" if status != 200 or content is None else content
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        headers = {"ETag": tag} if self.server.tags and status == 200 else {}
        if status == 200 and asked and self.server.ranges:
            first, last = (int(number) for number in asked.removeprefix("bytes=").split("-"))
            headers["Content-Range"] = f"bytes {first}-{min(last, len(content) - 1)}/{len(content)}"
            status, content = 206, content[first : last + 1]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if self.server.lengths:
            self.send_header("Content-Length", str(len(content)))
        else:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if body and self.server.stalls:
            self.server.stalls -= 1
            self.wfile.write(content[:1])
            self.close_connection = True
            self.rfile.read(1)  # until the client has gone
        elif body:
            with suppress(OSError):
                self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def http_server() -> Iterator[Files]:
    """Run an HTTP server of files."""
    server = Files()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
