"""Servers of the HTTP engine on loopback, for tests over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import TYPE_CHECKING

import uvloop

from entrepot.http1.server import Exchange, Server
from entrepot.resources.model import Limits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from entrepot.http1.server import Handle

GET = b"GET %b HTTP/1.1\r\nhost: a\r\n\r\n"


def render_error(path: str, status: int, message: str) -> tuple[bytes, bytes]:
    return b"content-type: text/plain\r\n", f"{path}: {message}".encode()


@contextlib.asynccontextmanager
async def serving(
    handle: Handle, limits: Limits | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[Server, int]]:
    server = Server(handle, render_error, limits or Limits())
    sock = socket.create_server(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    await server.start(sock, tls)
    try:
        yield server, port
    finally:
        await server.drain(0)


async def connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port, limit=1 << 25)


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    start, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
    headers = dict(line.split(": ", 1) for line in lines)
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return int(start.split()[1]), headers, body


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(30):
            await test()

    uvloop.run(limited())


async def echo(exchange: Exchange) -> None:
    exchange.respond(200, b"", exchange.request.path.encode())
