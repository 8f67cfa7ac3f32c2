"""A load generator in a process of its own: keep-alive connections, each sending its next request when it has its answer.

    python -m jobs.benchmarks.load < JSON of a Load        (prints the JSON of a Seen)

It does as little as can be, since it shares the machine with what it measures, and counts the CPU time that it takes.
"""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

ENDED = b"\r\n\r\n"


@dataclass(frozen=True)
class Ask:
    """One request."""

    method: str
    path: str
    content_type: str = ""
    body: bytes = b""

    def on_the_wire(self, host: str) -> bytes:
        lines = [f"{self.method} {self.path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(self.body)}"]
        if self.content_type:
            lines.append(f"Content-Type: {self.content_type}")
        return "\r\n".join(lines).encode() + ENDED + self.body


@dataclass(frozen=True)
class Seen:
    """What the generator saw: milliseconds of each answer, answers that weren't 200, seconds in all, CPU seconds of its own."""

    milliseconds: list[float]
    refused: int
    first_refusal: str
    seconds: float
    cpu_seconds: float

    @property
    def per_second(self) -> float:
        return len(self.milliseconds) / self.seconds


class Connection(asyncio.Protocol):
    """Sends the next request as soon as the answer is whole; `next_request` None ends it."""

    def __init__(self, next_request: Callable[[], bytes | None], answered: Callable[[float, int, bytes], None]) -> None:
        self._next, self._answered = next_request, answered
        self._buffer, self._whole, self._sent = b"", 0, 0.0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._send()

    def _send(self) -> None:
        request = self._next()
        if request is None:
            self._transport.close()
            return
        self._buffer, self._whole, self._sent = b"", 0, time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._whole and (head := self._buffer.find(ENDED)) >= 0:
            fields = self._buffer[:head].lower()
            place = fields.find(b"content-length:")
            if place < 0:
                raise ValueError("an answer without Content-Length")
            self._whole = head + len(ENDED) + int(fields[place + 15 :].split(b"\r\n", 1)[0])
        if self._whole and len(self._buffer) >= self._whole:
            self._answered(time.perf_counter() - self._sent, int(self._buffer[9:12]), self._buffer)
            self._send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


async def run(port: int, connections: int, seconds: float, requests: list[bytes]) -> Seen:
    """Load 127.0.0.1:port for so long. Raises ConnectionError when a connection ends before its time."""
    found: list[float] = []
    refusals: list[str] = []
    turn = 0
    began = time.perf_counter()
    end = began + seconds

    def next_request() -> bytes | None:
        nonlocal turn
        turn += 1
        return requests[turn % len(requests)] if time.perf_counter() < end else None

    def answered(took: float, status: int, answer: bytes) -> None:
        found.append(1000 * took)
        if status != 200:
            refusals.append(answer[:400].decode(errors="replace"))

    cpu = time.process_time()
    loop = asyncio.get_running_loop()
    made = [
        await loop.create_connection(lambda: Connection(next_request, answered), "127.0.0.1", port) for _ in range(connections)
    ]
    await asyncio.gather(*(protocol.ended for _, protocol in made))
    whole = time.perf_counter() - began
    if whole < seconds:
        raise ConnectionError(f"The service closed the connections after {whole:.1f} of {seconds:g} seconds.")
    return Seen(found, len(refusals), refusals[0] if refusals else "", whole, time.process_time() - cpu)


def load(port: int, asks: list[Ask], *, connections: int, seconds: float) -> Seen:
    """Run it in a process of its own."""
    requests = [base64.b64encode(ask.on_the_wire(f"127.0.0.1:{port}")).decode() for ask in asks]
    spec = json.dumps({"port": port, "connections": connections, "seconds": seconds, "requests": requests})
    command = [sys.executable, "-m", "jobs.benchmarks.load"]
    done = subprocess.run(command, input=spec, stdout=subprocess.PIPE, text=True, check=True)
    return Seen(**json.loads(done.stdout))


def main() -> None:
    spec = json.load(sys.stdin)
    spec["requests"] = [base64.b64decode(r) for r in spec["requests"]]
    try:
        import uvloop
    except ImportError:  # not on every system
        seen = asyncio.run(run(**spec))
    else:
        seen = uvloop.run(run(**spec))
    json.dump(asdict(seen), sys.stdout)


if __name__ == "__main__":
    main()
