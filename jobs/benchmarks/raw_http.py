"""One HTTP request over a plain socket: exactly the bytes that are given, which no client library would send."""

from __future__ import annotations

import http.client
import io
import select
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

BLOCK = 1 << 16
HTTP_1 = b"HTTP/1."


@dataclass(frozen=True)
class Reply:
    """`status` 0: the connection was closed without one, or the answer isn't of HTTP/1. `seconds`: from the first byte sent to the last one received."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float


class _Received(io.BytesIO):
    """Bytes as http.client reads them from a socket."""

    def makefile(self, *_: object) -> io.BytesIO:
        return self


def exchange(url: str, parts: Iterable[bytes], method: str = "POST", timeout: float = 60.0) -> Reply:
    """Sends the parts until the server answers; reads until it has answered or closes. Raises TimeoutError."""
    target = urlsplit(url)
    assert target.hostname is not None
    with socket.create_connection((target.hostname, target.port or 80), timeout=timeout) as connection:
        began = time.perf_counter()
        _send(connection, parts, timeout)
        received = bytearray()
        while (reply := _parsed(bytes(received), method, time.perf_counter() - began, closed=False)) is None:
            try:
                block = connection.recv(BLOCK)
            except ConnectionError:
                block = b""
            received += block
            if not block or not received.startswith(HTTP_1[: len(received)]):  # frames of HTTP/2 end with no line
                break
        return reply or _parsed(bytes(received), method, time.perf_counter() - began, closed=True) or Reply(0, {}, b"", 0.0)


def _send(connection: socket.socket, parts: Iterable[bytes], timeout: float) -> None:
    """Until all is sent, or the server answers or closes before: then it refuses. Raises TimeoutError."""
    for part in parts:
        view = memoryview(part)
        while view:
            readable, writable, _ = select.select([connection], [connection], [], timeout)
            if not readable and not writable:
                raise TimeoutError("the server neither reads nor answers")
            if readable:  # an answer, unless it is only `100 Continue`
                if connection.recv(12, socket.MSG_PEEK) != b"HTTP/1.1 100":
                    return
                connection.recv(len(b"HTTP/1.1 100 Continue\r\n\r\n"))
            if writable:
                try:
                    view = view[connection.send(view[:BLOCK]) :]
                except ConnectionError:
                    return


def _parsed(received: bytes, method: str, seconds: float, *, closed: bool) -> Reply | None:
    """None while more must come."""
    response = http.client.HTTPResponse(_Received(received), method=method)  # type: ignore[arg-type]
    try:
        response.begin()
        body = response.read()
    except (http.client.HTTPException, ValueError):
        return None
    headers = {name.lower(): value for name, value in response.getheaders()}
    whole = (
        closed
        or "content-length" in headers
        or "chunked" in headers.get("transfer-encoding", "")
        or response.status in (204, 304)
    )
    return Reply(response.status, headers, body, seconds) if whole else None
