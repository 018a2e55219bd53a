"""The server side of the HTTP engine over real sockets: order, cancellation, back-pressure, TLS, drain."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
import ssl
from typing import TYPE_CHECKING

import pytest
import trustme
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


def test_pipelined_requests_are_answered_in_order_however_long_each_takes() -> None:
    async def handle(exchange: Exchange) -> None:
        await asyncio.sleep({"/1": 0.05, "/2": 0.02}.get(exchange.request.path, 0))
        await echo(exchange)

    async def test() -> None:
        async with serving(handle) as (_, port):
            reader, writer = await connect(port)
            writer.write(b"".join(GET % b"/%d" % n for n in range(1, 6)))
            assert [(await answer(reader))[2] for _ in range(5)] == [b"/1", b"/2", b"/3", b"/4", b"/5"]
            writer.close()

    run(test)


def test_the_next_request_is_served_while_the_last_handler_still_settles() -> None:
    async def test() -> None:
        settled = asyncio.Event()
        gate = asyncio.Event()

        async def handle(exchange: Exchange) -> None:
            await echo(exchange)
            if exchange.request.path == "/1":
                await gate.wait()
                settled.set()

        async with serving(handle) as (_, port):
            reader, writer = await connect(port)
            for path in (b"/1", b"/2"):
                writer.write(GET % path)
                assert (await answer(reader))[2] == path
            writer.close()
            await writer.wait_closed()
            gate.set()
            await settled.wait()  # not cancelled: its answer was complete

    run(test)


@pytest.mark.parametrize("how", ["close", "half-close", "reset"])
def test_a_handler_is_cancelled_at_once_when_its_client_is_gone(how: str) -> None:
    async def test() -> None:
        entered, cancelled = asyncio.Event(), asyncio.Event()

        async def handle(exchange: Exchange) -> None:
            exchange.start(200, b"")
            exchange.write(b"x")
            entered.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                assert exchange.gone
                exchange.write(b"into the void")
                exchange.finish()
                cancelled.set()
                raise

        async with serving(handle) as (server, port):
            _, writer = await connect(port)
            writer.write(GET % b"/")
            await entered.wait()
            if how == "half-close":
                writer.write_eof()
            elif how == "reset":
                writer.transport.abort()
            else:
                writer.close()
            async with asyncio.timeout(0.5):
                await cancelled.wait()
            await until(lambda: server.connections == 0)
            writer.close()

    run(test)


def test_too_much_sent_ahead_cuts_the_connection() -> None:
    async def test() -> None:
        cancelled = asyncio.Event()

        async def handle(exchange: Exchange) -> None:
            try:
                await asyncio.sleep(60)
            finally:
                cancelled.set()

        async with serving(handle) as (_, port):
            reader, writer = await connect(port)
            writer.write(GET % b"/" + b"x" * 60_000)
            await asyncio.sleep(0.05)
            assert not cancelled.is_set()
            writer.write(b"x" * 10_000)
            await cancelled.wait()
            with pytest.raises(ConnectionError):
                await reader.read()
            writer.close()

    run(test)


def test_too_much_sent_ahead_at_once_cuts_before_the_handler_runs() -> None:
    async def test() -> None:
        async with serving(echo) as (server, port):
            for _ in range(5):
                reader, writer = await connect(port)
                writer.write(GET % b"/" + b"x" * 200_000)
                with pytest.raises(ConnectionError):
                    await reader.read()
                writer.close()
            await until(lambda: server.connections == 0 and server.running == 0)

    run(test)


@pytest.mark.parametrize("begun", [False, True])
def test_a_failing_handler_is_answered_for_and_logged(begun: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def handle(exchange: Exchange) -> None:
        if begun:
            exchange.start(200, b"")
            exchange.write(b"hello")
            await asyncio.sleep(0.02)
        raise LookupError("oh")

    async def test() -> None:
        async with serving(handle) as (_, port):
            reader, writer = await connect(port)
            writer.write(GET % b"/x")
            if begun:
                assert (await reader.read()).endswith(b"\r\n\r\n5\r\nhello\r\n")
            else:
                assert (await answer(reader))[::2] == (500, b"/x: the request could not be handled")
            writer.close()

    with caplog.at_level(logging.ERROR):
        run(test)
    assert [record.message for record in caplog.records] == ["a handler failed"]


def test_a_handler_that_forgets_to_answer() -> None:
    async def handle(exchange: Exchange) -> None:
        pass

    async def test() -> None:
        async with serving(handle) as (_, port):
            reader, writer = await connect(port)
            writer.write(GET % b"/x")
            assert (await answer(reader))[0] == 500
            writer.close()

    run(test)


def test_calls_out_of_order_are_refused() -> None:
    async def test() -> None:
        seen: list[str] = []

        def wrong(name: str, call: Callable[[], None]) -> None:
            with pytest.raises(RuntimeError):
                call()
            seen.append(name)

        async def handle(exchange: Exchange) -> None:
            wrong("write", lambda: exchange.write(b""))
            wrong("finish", exchange.finish)
            if exchange.request.path == "/1":
                exchange.respond(200, b"", b"")
            else:
                exchange.start(200, b"")
                wrong("start", lambda: exchange.start(200, b""))
                exchange.finish()
            wrong("respond", lambda: exchange.respond(200, b"", b""))
            wrong("finish", exchange.finish)
            exchange.abort()

        async with serving(handle) as (_, port):
            reader, writer = await connect(port)
            writer.write((GET % b"/1") + (GET % b"/2"))
            await answer(reader)
            await reader.readuntil(b"0\r\n\r\n")
            writer.close()
        assert seen == ["write", "finish", "respond", "finish", "write", "finish", "start", "respond", "finish"]

    run(test)


def test_abort_is_seen_as_an_incomplete_answer() -> None:
    async def handle(exchange: Exchange) -> None:
        if exchange.request.path != "/unbegun":
            exchange.start(200, b"")
            exchange.write(b"hello")
            await asyncio.sleep(0.02)
        exchange.abort()

    async def test() -> None:
        async with serving(handle) as (_, port):
            reader, writer = await connect(port)
            writer.write(GET % b"/")
            assert (await reader.read()).endswith(b"\r\n\r\n5\r\nhello\r\n")
            writer.close()
            for request in (b"GET / HTTP/1.0\r\n\r\n", GET % b"/unbegun"):
                reader, writer = await connect(port)
                writer.write(request)
                with pytest.raises(ConnectionError):
                    await reader.read()
                writer.close()

    run(test)


def test_a_refused_body_does_not_reset_the_answer_away() -> None:
    async def test() -> None:
        async with serving(echo, Limits(body_bytes=1000)) as (_, port):
            reader, writer = await connect(port)
            writer.write(b"POST /p HTTP/1.1\r\nhost: a\r\ncontent-length: 5000000\r\n\r\n")
            for _ in range(20):
                writer.write(b"x" * 50_000)
                await asyncio.sleep(0.001)
            status, headers, body = await answer(reader)
            assert (status, headers["connection"], body) == (413, "close", b"/p: body larger than 1000 bytes")
            assert await reader.read() == b""
            writer.close()

    run(test)


def test_a_large_body_arrives_unchanged() -> None:
    body = bytes(range(256)) * 40_000

    async def handle(exchange: Exchange) -> None:
        exchange.respond(200, b"", exchange.request.body)

    async def test() -> None:
        async with serving(handle) as (_, port):
            reader, writer = await connect(port)
            writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
            assert (await answer(reader))[2] == body
            writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
            writer.write(
                b"".join(b"%x\r\n%b\r\n" % (9_999, body[at : at + 9_999]) for at in range(0, 9_999_000, 9_999))
            )
            writer.write(b"0\r\n\r\n")
            assert (await answer(reader))[2] == body[:9_999_000]
            writer.close()

    run(test)


def test_a_slow_reader_pauses_its_writer_and_nobody_else() -> None:
    async def test() -> None:
        sent = 0
        highest = 0

        async def handle(exchange: Exchange) -> None:
            nonlocal sent, highest
            if exchange.request.path == "/small":
                await echo(exchange)
                return
            gate = asyncio.Event()
            gate.set()
            exchange.flow(gate.clear, gate.set)
            exchange.start(200, b"")
            for _ in range(1_000):
                await gate.wait()
                exchange.write(b"x" * 20_000)
                sent += 20_000
                await asyncio.sleep(0)
            exchange.finish()

        async with serving(handle) as (_, port):
            slow = socket.socket()
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(("127.0.0.1", port))
            slow.sendall(GET % b"/big")
            await until(lambda: sent > 0)
            await asyncio.sleep(0.1)
            stalled = sent
            assert stalled < 10_000_000  # the kernel's buffers and 64 KiB of ours
            reader, writer = await connect(port)
            for _ in range(20):
                writer.write(GET % b"/small")
                assert (await answer(reader))[0] == 200
            assert sent == stalled
            writer.close()
            slow.setblocking(False)
            received = b""
            while not received.endswith(b"\r\n0\r\n\r\n"):
                received = received[-16:] + await asyncio.get_running_loop().sock_recv(slow, 1 << 20)
            assert sent == 20_000_000
            slow.close()

    run(test)


def test_no_request_is_begun_while_its_client_does_not_read_the_answers_before() -> None:
    async def test() -> None:
        begun = 0

        async def handle(exchange: Exchange) -> None:
            nonlocal begun
            begun += 1
            exchange.respond(200, b"", b"x" * 8_000_000)

        async with serving(handle) as (_, port):
            reader, writer = await connect(port)
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(GET % b"/" * 5)
            await until(lambda: begun > 0)
            await asyncio.sleep(0.1)
            assert begun == 1
            reader._transport.resume_reading()  # type: ignore[attr-defined]
            for _ in range(5):
                assert len((await answer(reader))[2]) == 8_000_000
            writer.close()

    run(test)


@pytest.fixture(scope="module")
def tls() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Of the server, of its clients."""
    authority = trustme.CA()
    theirs, ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(theirs)
    authority.configure_trust(ours)
    return theirs, ours


def test_tls(tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async def handle(exchange: Exchange) -> None:
        exchange.respond(200, b"", f"{exchange.request.secure} {exchange.request.peer}".encode())

    async def test() -> None:
        async with serving(handle, tls=tls[0]) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls[1], server_hostname="localhost")
            for _ in range(2):
                writer.write(GET % b"/")
                assert (await answer(reader))[2] == b"True 127.0.0.1"
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            assert (await answer(reader))[1]["connection"] == "close"
            assert await reader.read() == b""
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls[1], server_hostname="localhost")
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            assert (await answer(reader))[0] == 400
            writer.close()

    run(test)


@pytest.mark.parametrize("abrupt", [False, True])
def test_a_handler_is_cancelled_when_its_client_over_tls_is_gone(
    abrupt: bool, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    async def test() -> None:
        entered, cancelled = asyncio.Event(), asyncio.Event()

        async def handle(exchange: Exchange) -> None:
            entered.set()
            try:
                await asyncio.sleep(60)
            finally:
                cancelled.set()

        async with serving(handle, tls=tls[0]) as (server, port):
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls[1], server_hostname="localhost")
            writer.write(GET % b"/")
            await entered.wait()
            if abrupt:
                writer.transport.abort()
            writer.close()
            async with asyncio.timeout(1):
                await cancelled.wait()
            await until(lambda: server.connections == 0)

    run(test)


def test_a_slow_reader_over_tls_pauses_its_writer(tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async def test() -> None:
        paused = asyncio.Event()

        async def handle(exchange: Exchange) -> None:
            gate = asyncio.Event()
            gate.set()

            def pause() -> None:
                paused.set()
                gate.clear()

            exchange.flow(pause, gate.set)
            exchange.start(200, b"")
            for _ in range(400):
                await gate.wait()
                exchange.write(b"x" * 50_000)
                await asyncio.sleep(0)
            exchange.finish()

        async with serving(handle, tls=tls[0]) as (_, port):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=tls[1], server_hostname="localhost", limit=1 << 25
            )
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(GET % b"/")
            await paused.wait()
            reader._transport.resume_reading()  # type: ignore[attr-defined]
            assert len(await reader.readuntil(b"\r\n0\r\n\r\n")) > 20_000_000
            writer.close()

    run(test)


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
