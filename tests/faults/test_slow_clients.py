"""Clients that are slow on purpose: they lose their connection at the limit, and nobody else notices them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

import pytest
import uvloop

from entrepot.http1.server import Exchange, Server
from entrepot.resources.model import Limits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

LIMITS = Limits(header_s=0.3, body_s=0.3, idle_s=0.3, write_stall_s=0.4)
POST = b"POST /p HTTP/1.1\r\nhost: a\r\n"


def render_error(path: str, status: int, message: str) -> tuple[bytes, bytes]:
    return b"", f"{path}: {message}".encode()


async def echo(exchange: Exchange) -> None:
    exchange.respond(200, b"", exchange.request.body)


@contextlib.asynccontextmanager
async def serving(
    handle: Callable[[Exchange], Awaitable[None]] = echo, limits: Limits = LIMITS
) -> AsyncIterator[tuple[Server, int]]:
    server = Server(handle, render_error, limits)  # type: ignore[arg-type]
    sock = socket.create_server(("127.0.0.1", 0))
    await server.start(sock)
    try:
        yield server, sock.getsockname()[1]
    finally:
        await server.drain(0)


async def connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port)


async def drip(writer: asyncio.StreamWriter, octet: bytes) -> None:
    try:
        while True:
            writer.write(octet)
            await writer.drain()
            await asyncio.sleep(0.02)
    except ConnectionError:
        pass
    finally:
        writer.close()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(30):
            await test()

    uvloop.run(limited())


@pytest.mark.parametrize(
    ("begin", "octet", "message"),
    [
        (b"", b"x", b": the request head did not arrive in time"),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx: ", b"x", b": the request head did not arrive in time"),
        (POST + b"content-length: 1000\r\n\r\n", b"x", b"/p: the request body did not arrive in time"),
        (POST + b"transfer-encoding: chunked\r\n\r\n", b"1\r\nx\r\n", b"/p: the request body did not arrive in time"),
        (POST + b"transfer-encoding: chunked\r\n\r\n0\r\nx: ", b"x", b"/p: the request body did not arrive in time"),
    ],
    ids=["line", "head", "body", "chunks", "trailer"],
)
def test_a_request_that_drips_in_is_answered_408(begin: bytes, octet: bytes, message: bytes) -> None:
    async def test() -> None:
        async with serving() as (_, port):
            reader, writer = await connect(port)
            writer.write(begin)
            dripping = asyncio.create_task(drip(writer, octet))
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert b"\r\nconnection: close\r\n" in answer
            assert answer.endswith(message)
            dripping.cancel()
            writer.close()

    run(test)


def test_one_that_goes_on_sending_after_its_408_is_dropped() -> None:
    async def test() -> None:
        async with serving() as (server, port):
            reader, writer = await connect(port)
            dripping = asyncio.create_task(drip(writer, b"x"))
            assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
            await dripping
            assert server.connections == 0
            writer.close()

    run(test)


@pytest.mark.parametrize("begin", [b"", b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"], ids=["fresh", "kept"])
def test_an_idle_connection_is_closed_in_silence(begin: bytes) -> None:
    async def test() -> None:
        async with serving() as (_, port):
            reader, writer = await connect(port)
            writer.write(begin)
            if begin:
                await reader.readuntil(b"\r\n\r\n")
            assert await reader.read() == b""
            writer.close()

    run(test)


def test_use_keeps_a_connection_alive() -> None:
    async def test() -> None:
        async with serving() as (_, port):
            reader, writer = await connect(port)
            for _ in range(8):
                writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
                await reader.readuntil(b"\r\n\r\n")
                await asyncio.sleep(0.1)
            writer.close()

    run(test)


def test_a_long_answer_has_no_time_limit_of_its_own() -> None:
    async def handle(exchange: Exchange) -> None:
        await asyncio.sleep(0.8)
        await echo(exchange)

    async def test() -> None:
        async with serving(handle) as (_, port):
            reader, writer = await connect(port)
            writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            writer.close()

    run(test)


@pytest.mark.parametrize("whole", [False, True], ids=["stream", "answer"])
def test_a_client_that_reads_nothing_is_cut(whole: bool) -> None:
    async def test() -> None:
        ended = asyncio.Event()

        async def handle(exchange: Exchange) -> None:
            gate = asyncio.Event()
            gate.set()
            exchange.flow(gate.clear, gate.set)
            try:
                if whole:
                    exchange.respond(200, b"", b"x" * 20_000_000)
                    return
                exchange.start(200, b"")
                while True:
                    await gate.wait()
                    exchange.write(b"x" * 50_000)
            finally:
                ended.set()

        async with serving(handle) as (server, port):
            _, writer = await connect(port)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            async with asyncio.timeout(3):
                await ended.wait()
                while server.connections:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            writer.close()

    run(test)


@pytest.mark.parametrize("whole", [False, True], ids=["stream", "answer"])
def test_a_client_that_reads_slowly_is_not_cut(whole: bool) -> None:
    async def handle(exchange: Exchange) -> None:
        if whole:
            exchange.respond(200, b"", b"x" * 6_000_000)
            return
        exchange.start(200, b"")
        for size in (8_000_000, 20_000_000):
            exchange.write(b"x" * size)
            await asyncio.sleep(0.05)
        await asyncio.sleep(60)

    async def test() -> None:
        async with serving(handle) as (_, port):
            loop = asyncio.get_running_loop()
            with socket.create_connection(("127.0.0.1", port)) as sock:
                sock.setblocking(False)
                await loop.sock_sendall(sock, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
                received = 0
                while received < 6_000_000:
                    data = await loop.sock_recv(sock, 300_000)
                    assert data
                    received += len(data)
                    await asyncio.sleep(0.05)

    run(test)


def test_others_are_served_while_many_drip() -> None:
    limits = Limits(header_s=0.3, body_s=0.3, idle_s=10.0, write_stall_s=0.4)

    async def test() -> None:
        async with serving(limits=limits) as (_, port):
            drips = []
            for _ in range(100):
                _, writer = await connect(port)
                drips.append(asyncio.create_task(drip(writer, b"x")))
            reader, writer = await connect(port)
            for _ in range(50):
                writer.write(POST + b"content-length: 2\r\n\r\nhi")
                assert (await reader.readuntil(b"\r\n\r\nhi")).startswith(b"HTTP/1.1 200 ")
            writer.close()
            for task in drips:
                task.cancel()
            await asyncio.wait(drips)

    run(test)
