"""A mirror over HTTP that misbehaves when told to, and files to put on it."""

import os
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa

from ride_duration.data.demo import demo_month
from ride_duration.data.month import Month

JANUARY, FEBRUARY, MARCH = Month(2023, 1), Month(2023, 2), Month(2023, 3)
GREEN = "trip-data/green_tripdata_2023-01.parquet"
YELLOW = "trip-data/yellow_tripdata_2023-01.parquet"
ABSENT = "trip-data/green_tripdata_2023-02.parquet"
ALWAYS = 1_000_000
TRIES = 3


def relabelled(month: Month, fleet: str) -> pa.Table:
    """A demo month as another fleet's file, because no real month may be fetched in a test."""
    table = demo_month(month, trips=3000).replace_schema_metadata(None)
    if fleet == "green":
        return table
    return table.rename_columns([name.replace("lpep_", "tpep_") for name in table.schema.names])


def _head(request: BaseHTTPRequestHandler, length: int | None) -> None:
    request.send_response(200)
    if length is not None:
        request.send_header("Content-Length", str(length))
    request.end_headers()


def whole(request: BaseHTTPRequestHandler, body: bytes) -> None:
    _head(request, len(body))
    request.wfile.write(body)


def cut(request: BaseHTTPRequestHandler, body: bytes) -> None:
    """Resets the connection in the middle of the body, as a router that goes down does."""
    _head(request, len(body))
    request.wfile.write(body[: len(body) // 2])
    time.sleep(0.05)  # what was sent shall arrive: a reset overtakes it otherwise
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(request.connection.detach())


def short(request: BaseHTTPRequestHandler, body: bytes) -> None:
    """Announces the whole body, sends half of it and closes in good order."""
    _head(request, len(body))
    request.wfile.write(body[: len(body) // 2])


def truncated(request: BaseHTTPRequestHandler, body: bytes) -> None:
    """Sends half of the file as if it were the whole: only the file itself can tell."""
    whole(request, body[: len(body) // 2])


def unannounced(request: BaseHTTPRequestHandler, body: bytes) -> None:
    """Sends half of the file without having said how long it is."""
    _head(request, None)
    request.wfile.write(body[: len(body) // 2])


def a_web_page(request: BaseHTTPRequestHandler, body: bytes) -> None:
    """Answers a page with status 200, as the login page of a hotel's network does."""
    whole(request, b"<html>Please accept our terms.</html>" * 100)


def damaged(request: BaseHTTPRequestHandler, body: bytes) -> None:
    """Sends as many bytes as it should, with zeros over the middle of the file."""
    middle = len(body) // 2
    whole(request, body[: middle - 4096] + bytes(8192) + body[middle + 4096 :])


def silent(request: BaseHTTPRequestHandler, body: bytes) -> None:
    """Takes the request and never answers."""
    request.server.over.wait(60)


def stalled(request: BaseHTTPRequestHandler, body: bytes) -> None:
    """Sends half of the body and then nothing more, without closing."""
    _head(request, len(body))
    request.wfile.write(body[: len(body) // 2])
    request.server.over.wait(60)


def dripping(request: BaseHTTPRequestHandler, body: bytes) -> None:
    """Sends the whole body in about one second."""
    _head(request, len(body))
    piece = len(body) // 20 + 1
    for start in range(0, len(body), piece):
        request.wfile.write(body[start : start + piece])
        time.sleep(0.05)


def status(code: int) -> Callable[[BaseHTTPRequestHandler, bytes], None]:
    """A fault that answers this status, with a small page as servers do."""

    def fault(request: BaseHTTPRequestHandler, body: bytes) -> None:
        request.send_error(code)

    fault.__name__ = f"status {code}"
    return fault


def asking_bob(request: BaseHTTPRequestHandler, body: bytes) -> None:
    """Answers only bob, whose password is s3cret."""
    if request.headers.get("Authorization") == "Basic Ym9iOnMzY3JldA==":
        whole(request, body)
    else:
        request.send_error(401)


def serving(content: bytes) -> Callable[[BaseHTTPRequestHandler, bytes], None]:
    """A fault that sends other content than the mirror's."""
    return lambda request, body: whole(request, content)


def meeting(requests: int) -> Callable[[BaseHTTPRequestHandler, bytes], None]:
    """A fault that keeps every request waiting until so many are there, so that they surely overlap."""
    barrier = threading.Barrier(requests, timeout=30)

    def fault(request: BaseHTTPRequestHandler, body: bytes) -> None:
        barrier.wait()
        whole(request, body)

    return fault


class _Request(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.answer(self)

    def log_message(self, *_: object) -> None:
        """Nobody reads the log of a mirror that lives for a second."""


class Mirror(ThreadingHTTPServer):
    """A folder over HTTP that counts what it is asked for and misbehaves when told to."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.folder, self.faults, self.asked, self.over = folder, {}, Counter(), threading.Event()
        self._counting = threading.Lock()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def misbehave(self, path: str, fault: Callable, requests: int = ALWAYS) -> None:
        """Show `fault` for the next so many requests of `path`."""
        self.faults[path] = fault, self.asked[path] + requests

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.lstrip("/")
        with self._counting:
            self.asked[path] += 1
            fault, until = self.faults.get(path, (whole, ALWAYS))
            fault = fault if self.asked[path] <= until else whole
        file = self.folder / path
        body = file.read_bytes() if file.exists() else b""
        (fault if body or fault is not whole else status(404))(request, body)

    def handle_error(self, *_: object) -> None:
        """A client that gives up is what these tests are about, so nothing is printed."""


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def entry_path(path: Path) -> Path:
    return path.with_name(path.name + ".manifest.json")
