"""Mutated requests over real sockets: the server survives, says nothing in its log, and does not mind how they come."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
from typing import TYPE_CHECKING, Any

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from entrepot.http1.connection import Connection
from entrepot.http1.server import Exchange, Server
from entrepot.resources.model import Limits

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMITS = Limits(request_line_bytes=60, header_bytes=300, header_count=6, body_bytes=64)
SEEDS = (
    b"GET /a?b HTTP/1.1\r\nHost: a\r\nX-A: b\r\n\r\n",
    b"HEAD /stream HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /stream HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n",
    b"PUT / HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nabc",
    b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
)
END = b"GET /end HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


@st.composite
def _streams(draw: st.DrawFn) -> bytes:
    data = bytearray(b"".join(draw(st.lists(st.sampled_from(SEEDS), min_size=1, max_size=3))))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3) | st.sampled_from([b"\r\n", b"\n", b"\r"]))
    return bytes(data) + END


async def _handle(exchange: Exchange) -> None:
    body = exchange.request.path.encode() + exchange.request.body
    if exchange.request.path == "/stream":
        exchange.start(200, b"")
        exchange.write(body)
        await asyncio.sleep(0)
        exchange.finish()
    else:
        exchange.respond(200, b"", body)


def _render_error(path: str, status: int, message: str) -> tuple[bytes, bytes]:
    return b"", f"{path}: {message}".encode()


async def _answers(server: Server, pieces: list[bytes]) -> bytes:
    """All that comes back; a request in the middle of which the octets end is not answered."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        await loop.connect_accepted_socket(lambda: Connection(server, False), theirs)
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                await loop.sock_sendall(ours, piece)
                await asyncio.sleep(0)
        for _ in range(60):  # both ends are on this loop: what can happen has happened by then
            await asyncio.sleep(0)
        received = b""
        with contextlib.suppress(ConnectionError, BlockingIOError):
            while data := ours.recv(65536):
                received += data
    return re.sub(rb"date: [^\r]*\r\n", b"", received)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner.get_loop()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_streams(), st.integers(1, 40))
def test_mutated_requests(
    loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture, data: bytes, size: int
) -> None:
    async def test() -> None:
        server = Server(_handle, _render_error, LIMITS)
        whole = await _answers(server, [data])
        split = await _answers(server, [data[at : at + size] for at in range(0, len(data), size)])
        assert whole == split
        await server.drain(0)
        assert (server.connections, server.running) == (0, 0)

    failures: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: failures.append(context))
    with caplog.at_level(logging.WARNING):
        loop.run_until_complete(test())
    assert failures == []
    assert caplog.records == []
