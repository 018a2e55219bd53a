"""The server side of the HTTP engine over real sockets: order, cancellation, back-pressure, TLS."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from typing import TYPE_CHECKING

import pytest
import trustme
from raw_servers import GET, answer, connect, echo, run, serving, until

from entrepot.http1.server import Exchange
from entrepot.resources.model import Limits

if TYPE_CHECKING:
    from collections.abc import Callable


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
