"""Reads streams as a client does and prints how chunks arrive: how many to a read, how long after they were written."""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import time
from array import array
from pathlib import Path
from typing import cast

import uvloop

STAMP = re.compile(rb'"content": ?" (\d{8,})"')


class Arrivals:
    """Delays in ns from the upstream's write to this process's read; reads that held at least one chunk."""

    def __init__(self) -> None:
        self.delays_ns = array("q")
        self.reads = 0

    def report(self) -> dict[str, float]:
        delays = sorted(self.delays_ns)
        if not delays:
            return {"chunks": 0, "chunks_per_read": 0.0, "delay_p50_us": 0.0, "delay_p99_us": 0.0}
        return {
            "chunks": len(delays),
            "chunks_per_read": len(delays) / self.reads,
            "delay_p50_us": delays[len(delays) // 2] / 1000,
            "delay_p99_us": delays[len(delays) * 99 // 100] / 1000,
        }


class Reader(asyncio.Protocol):
    """One connection that sends the same request again whenever the answer before has ended."""

    def __init__(self, request: bytes, arrivals: Arrivals) -> None:
        self.request = request
        self.arrivals = arrivals
        self.transport: asyncio.Transport | None = None
        self.rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one by shape only
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        data = self.rest + data
        last = 0
        found = 0
        for match in STAMP.finditer(data):
            self.arrivals.delays_ns.append(now - int(match[1]))
            found += 1
            last = match.end()
        self.arrivals.reads += found > 0
        self.rest = data[max(last, len(data) - 64) :]
        if self.rest.endswith(b"0\r\n\r\n") and self.transport is not None:
            self.rest = b""
            self.transport.write(self.request)


async def probe(port: int, path: str, body: bytes, key: str, options: argparse.Namespace) -> Arrivals:
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    arrivals = Arrivals()
    loop = asyncio.get_running_loop()
    readers = [
        await loop.create_connection(lambda: Reader(head.encode() + body, arrivals), "127.0.0.1", port)
        for _ in range(options.connections)
    ]
    await asyncio.sleep(options.seconds)
    for transport, _ in readers:
        transport.close()
    return arrivals


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("--path", default="/v1/chat/completions")
    arguments.add_argument("--body", type=Path, required=True, help="file with the request's body")
    arguments.add_argument("--key", default="none")
    arguments.add_argument("--connections", type=int, default=64)
    arguments.add_argument("--seconds", type=float, default=2.0)
    options = arguments.parse_args()
    body = options.body.read_bytes()
    print(json.dumps(uvloop.run(probe(options.port, options.path, body, options.key, options)).report()))


if __name__ == "__main__":
    main()
