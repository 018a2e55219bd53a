"""The upstream of the streamed calls: one process, no models, chunks at a fixed pace, each its own write.

Each chunk carries the time at which it was written, so that a reader on the same machine knows how long it travelled.
`GET /stats` counts what was sent. Just enough HTTP/1.1 for the proxies of this benchmark.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from typing import cast

import uvloop

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENT = (
    'data: {"id":"chatcmpl-BzQ4k0Yk3vJ0vS7dT1m5w9XbHcRfL","object":"chat.completion.chunk","created":1767225600,'
    '"model":"gpt-4o-mini-2024-07-18","service_tier":"default","system_fingerprint":"fp_b705f0c291","choices":[{"index":0,'
    '"delta":{"content":" %s"},"logprobs":null,"finish_reason":null}],"usage":null}\n\n'
)
LAST = EVENT.replace('{"content":" %s"}', "{}").replace('"finish_reason":null', '"finish_reason":"stop"')
USAGE = (
    EVENT[: EVENT.index('"choices"')]
    + '"choices":[],"usage":{"prompt_tokens":212,"completion_tokens":63,"total_tokens":275}}\n\n'
)
DONE = "data: [DONE]\n\n"
GOLDEN = 0.6180339887498949  # spreads the phases of the streams evenly, whatever their number


def framed(text: str) -> bytes:
    data = text.encode()
    return b"%x\r\n%b\r\n" % (len(data), data)


class Upstream:
    """What all connections share: the pace, and the counts of calls and chunks since the start."""

    def __init__(self, chunks: int, pace_s: float) -> None:
        self.chunks = chunks
        self.pace_s = pace_s
        self.calls_begun = 0
        self.calls_done = 0
        self.chunks_sent = 0

    def stats(self) -> bytes:
        counts = {"calls_begun": self.calls_begun, "calls_done": self.calls_done, "chunks_sent": self.chunks_sent}
        return json.dumps(counts).encode()


class Connection(asyncio.Protocol):
    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.buffer = b""
        self.timer: asyncio.TimerHandle | None = None
        self.sent = 0
        self.begin_s = 0.0
        self.include_usage = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one by shape only

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 — asyncio's signature
        self.transport = None
        if self.timer is not None:
            self.timer.cancel()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, rest = self.buffer.partition(b"\r\n\r\n")
        if not found or self.transport is None:
            return
        fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:])
        length = int(fields.get(b"content-length", b"0"))
        if len(rest) < length:
            return
        self.buffer = rest[length:]
        if head.startswith(b"GET /stats "):
            body = self.upstream.stats()
            self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        elif b"transfer-encoding" in fields:
            self.transport.write(b"HTTP/1.1 411 Length Required\r\ncontent-length: 0\r\n\r\n")
        else:
            self.begin(rest[:length])

    def begin(self, body: bytes) -> None:
        self.include_usage = b"include_usage" in body
        self.sent = 0
        phase = (self.upstream.calls_begun * GOLDEN) % 1.0
        self.upstream.calls_begun += 1
        self.begin_s = self.loop.time() + phase * self.upstream.pace_s
        self.timer = self.loop.call_at(self.begin_s, self.send)

    def send(self) -> None:
        """Write one chunk. The next is due at a multiple of the pace after the first: lateness does not add up."""
        if self.transport is None:
            return
        if self.sent == 0:
            self.transport.write(HEAD)
        self.sent += 1
        self.upstream.chunks_sent += 1
        stamp = str(time.monotonic_ns())
        if self.sent < self.upstream.chunks:
            self.transport.write(framed(EVENT % stamp))
            self.timer = self.loop.call_at(self.begin_s + self.sent * self.upstream.pace_s, self.send)
        else:  # the last chunk travels with what follows it, so that a call has exactly `chunks` writes
            self.upstream.calls_done += 1
            end = framed(LAST) + (framed(USAGE) if self.include_usage else b"") + framed(DONE)
            self.transport.write(end + b"0\r\n\r\n")


async def serve(port: int, upstream: Upstream) -> None:
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(upstream), "127.0.0.1", port, backlog=1024
    )
    async with server:
        await server.serve_forever()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--port", type=int, default=18101)
    arguments.add_argument("--chunks", type=int, default=64, help="chunks per call (default: %(default)s)")
    arguments.add_argument("--pace-ms", type=float, default=10.0, help="from chunk to chunk (default: %(default)s)")
    options = arguments.parse_args()
    uvloop.run(serve(options.port, Upstream(options.chunks, options.pace_ms / 1000)))


if __name__ == "__main__":
    main()
