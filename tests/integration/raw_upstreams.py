"""Raw servers on loopback for tests of the upstream pool: what they send is written out byte for byte."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import TYPE_CHECKING, Any

import pytest
import trustme
import uvloop

from entrepot.http1.client import Endpoint, Fault, Pool, Response
from entrepot.resources.model import Timeouts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
    from pathlib import Path

    Serve = Callable[["Peer"], Awaitable[None]]

HEAD = b"host: upstream.test\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


class Peer:
    """The server's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        self.reader, self.writer, self.number = reader, writer, number
        self.requests: list[bytes] = []
        self.gone = asyncio.Event()

    async def request(self) -> bytes:
        """The next request, whole. Raises IncompleteReadError at the end."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]) if b"content-length" in head else 0
        self.requests.append(head + await self.reader.readexactly(size))
        return self.requests[-1]

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def end(self) -> None:
        """Wait until the other side closes."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65536):
                pass


@contextlib.asynccontextmanager
async def upstream(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[int, list[Peer]]]:
    peers: list[Peer] = []
    serving: list[asyncio.Task[None]] = []

    async def attend(peer: Peer) -> None:
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
                await serve(peer)
        finally:
            peer.gone.set()
            peer.writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peers.append(Peer(reader, writer, len(peers)))
        serving.append(asyncio.create_task(attend(peers[-1])))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1], peers
    finally:
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        await server.wait_closed()


@contextlib.asynccontextmanager
async def pool(port: int, *, tls: ssl.SSLContext | None = None, **options: Any) -> AsyncIterator[Pool]:
    endpoint = Endpoint(
        "http" if tls is None else "https", options.pop("host", "127.0.0.1"), port, options.pop("proxy", None)
    )
    limits = {name: options.pop(name) for name in ("connect_s", "first_byte_s", "total_s") if name in options}
    made = Pool(endpoint, Timeouts(**limits, **options.pop("timeouts", {})), tls, **options)
    try:
        yield made
    finally:
        await made.close()
        assert not made._open
        assert not made._busy


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(20):
            await coroutine

    uvloop.run(limited())


async def post(made: Pool, body: bytes = b"{}") -> Response:
    return await made.send("POST", "/v1/x", HEAD, body)


async def fault(awaitable: Awaitable[object]) -> Fault:
    with pytest.raises(Fault) as caught:
        await awaitable
    return caught.value


async def until(true: Callable[[], bool]) -> None:
    for _ in range(5000):
        if true():
            return
        await asyncio.sleep(0.001)
    raise AssertionError


async def always_ok(peer: Peer) -> None:
    while True:
        await peer.request()
        await peer.send(OK)


def authority_files(folder: Path) -> tuple[ssl.SSLContext, str]:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("upstream.test", "127.0.0.1").configure_cert(server)
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    return server, str(folder / "ca.pem")


def unused_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
