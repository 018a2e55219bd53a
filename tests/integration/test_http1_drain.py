"""The orderly end of a server over real sockets, and what an idle connection costs until then."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from typing import TYPE_CHECKING

import pytest
from raw_servers import GET, answer, connect, echo, run, serving, until

from entrepot.http1.server import Exchange

if TYPE_CHECKING:
    pass


def test_drain_finishes_what_runs_and_closes_what_is_idle() -> None:
    async def test() -> None:
        entered = asyncio.Event()

        async def handle(exchange: Exchange) -> None:
            if exchange.request.path == "/stream":
                exchange.start(200, b"")
            if exchange.request.path != "/idle":
                entered.set()
                await asyncio.sleep(0.15)
            if exchange.started:
                exchange.finish()
            else:
                await echo(exchange)

        async with serving(handle) as (server, port):
            idle, busy, stream, partial = [await connect(port) for _ in range(4)]
            idle[1].write(GET % b"/idle")
            await answer(idle[0])
            busy[1].write(GET % b"/busy")
            stream[1].write(GET % b"/stream")
            partial[1].write((GET % b"/partial")[:-1])
            await entered.wait()
            await asyncio.sleep(0.05)
            drained = asyncio.create_task(server.drain(5))
            assert await idle[0].read() == b""
            with pytest.raises(OSError):
                await connect(port)
            partial[1].write(b"\n")
            status, headers, body = await answer(busy[0])
            assert (status, headers["connection"], body) == (200, "close", b"/busy")
            assert (await stream[0].read()).endswith(b"\r\n0\r\n\r\n")
            assert (await answer(partial[0]))[1]["connection"] == "close"
            for _, writer in (idle, busy, stream, partial):
                writer.close()
            await drained
            assert server.connections == 0

    run(test)


def test_what_comes_on_an_idle_connection_meanwhile_is_answered() -> None:
    async def test() -> None:
        async with serving(echo) as (server, port):
            asks, stays = [await connect(port) for _ in range(2)]
            for reader, writer in (asks, stays):
                writer.write(GET % b"/first")
                await answer(reader)
            drained = asyncio.create_task(server.drain(5, rest_s=0.3))
            await asyncio.sleep(0.05)
            asks[1].write(GET % b"/last")
            status, headers, body = await answer(asks[0])
            assert (status, headers["connection"], body) == (200, "close", b"/last")
            assert await asks[0].read() == b""
            assert not drained.done()
            assert await stays[0].read() == b""
            await drained
            assert server.connections == 0
            for _, writer in (asks, stays):
                writer.close()

    run(test)


def test_drain_cuts_what_does_not_finish() -> None:
    async def test() -> None:
        entered, settled = asyncio.Event(), asyncio.Event()

        async def handle(exchange: Exchange) -> None:
            entered.set()
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.01)
                settled.set()

        async with serving(handle) as (server, port):
            reader, writer = await connect(port)
            writer.write(GET % b"/")
            await entered.wait()
            await server.drain(0.1)
            assert settled.is_set()
            with pytest.raises(ConnectionError):
                await reader.read()
            writer.close()

    run(test)


def test_drain_leaves_no_word_of_handlers_that_it_cut(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        entered = asyncio.Event()

        async def handle(exchange: Exchange) -> None:
            if exchange.request.path == "/stream":
                exchange.start(200, b"")
            entered.set()
            await asyncio.Event().wait()

        async with serving(handle) as (server, port):
            writers = [(await connect(port))[1] for _ in range(2)]
            for path, writer in zip((b"/", b"/stream"), writers, strict=True):
                entered.clear()
                writer.write(GET % path)
                await entered.wait()
            await server.drain(0.05)
            assert (server.connections, server.running) == (0, 0)
            for writer in writers:
                writer.close()

    with caplog.at_level(logging.WARNING):
        run(test)
    assert caplog.records == []


def test_an_idle_connection_costs_little_memory() -> None:
    async def test() -> None:
        async with serving(echo) as (server, port):
            clients = await _idle_clients(port, 50)
            before = _resident_kib()
            clients += await _idle_clients(port, 1_000)
            assert (_resident_kib() - before) / 1_000 < 12  # both ends, and what the allocator holds back
            for sock in clients:
                sock.close()
            await until(lambda: server.connections == 0)

    async def _idle_clients(port: int, count: int) -> list[socket.socket]:
        loop = asyncio.get_running_loop()
        clients = []
        for _ in range(count):
            sock = socket.socket()
            sock.setblocking(False)
            await loop.sock_connect(sock, ("127.0.0.1", port))
            await loop.sock_sendall(sock, GET % b"/")
            assert await loop.sock_recv(sock, 1000)
            clients.append(sock)
        return clients

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8_192), hard))
    try:
        run(test)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _resident_kib() -> int:
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * resource.getpagesize() // 1024
