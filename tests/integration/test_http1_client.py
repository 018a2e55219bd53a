"""The pool against raw servers on loopback: keep-alive, staleness, flow control, cancelling."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest
from raw_upstreams import (
    CHUNKED,
    OK,
    Peer,
    always_ok,
    authority_files,
    fault,
    pool,
    post,
    run,
    until,
    unused_port,
    upstream,
)

from entrepot.http1.client import Pool, client_tls

if TYPE_CHECKING:
    from pathlib import Path


def test_request_bytes_and_keep_alive() -> None:
    async def main() -> None:
        async with upstream(always_ok) as (port, peers), pool(port) as made:
            for _ in range(3):
                response = await post(made, b"hello")
                assert (response.status, response.headers) == (200, {"content-length": "2"})
                assert await response.read(2) == b"ok"
                assert await response.read(2) == b"ok"
            [peer] = peers
            assert set(peer.requests) == {
                b"POST /v1/x HTTP/1.1\r\ncontent-length: 5\r\nhost: upstream.test\r\n\r\nhello"
            }

    run(main())


def test_concurrent_calls_and_bounded_idle() -> None:
    async def main() -> None:
        async with upstream(always_ok) as (port, peers), pool(port, max_idle=3) as made:
            for response in await asyncio.gather(*(post(made) for _ in range(20))):
                assert await response.read(10) == b"ok"
            assert len(peers) == 20
            assert len(made._idle) == 3
            last = made._idle[-1]
            await post(made)
            assert made._idle[-1] is last
            assert len(peers) == 20

    run(main())


def test_idle_connections_expire() -> None:
    async def main() -> None:
        async with upstream(always_ok) as (port, peers), pool(port, idle_s=0.05) as made:
            await post(made)
            assert len(made._idle) == 1
            await peers[0].gone.wait()
            assert not made._idle

    run(main())


@pytest.mark.parametrize("ending", [b"", b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n"])
def test_idle_connection_that_ends_or_speaks_is_dropped_at_once(ending: bytes) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.request()
            await peer.send(OK)
            if ending:
                await peer.request()
                # Together with the answer to come: never taken for the answer to the next request.
                await peer.send(OK)
                await asyncio.sleep(0.01)
                await peer.send(ending)

        async with upstream(serve) as (port, peers), pool(port) as made:
            await post(made)
            if ending:
                await post(made)
            assert len(made._idle) == 1
            await until(lambda: not made._idle)
            assert await (await post(made)).read(9) == b"ok"
            assert len(peers) == 2

    run(main())


def test_stale_connection_is_retried_once_on_a_fresh_one() -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.request()
            await peer.send(OK)
            await peer.request()
            if peer.number:
                await peer.send(OK)

        async with upstream(serve) as (port, peers), pool(port) as made:
            await post(made)
            # The server reads this one and closes without a word; two idle ones would both be stale.
            assert await (await post(made)).read(9) == b"ok"
            assert [len(peer.requests) for peer in peers] == [2, 1]

    run(main())


def test_a_fresh_connection_is_not_retried_and_neither_is_a_begun_answer() -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.request()
            if peer.number == 0:
                return
            await peer.send(OK)
            await peer.request()
            await peer.send(b"H")

        async with upstream(serve) as (port, peers), pool(port) as made:
            first = await fault(post(made))
            await post(made)
            second = await fault(post(made))
            assert [(f.kind, f.sent) for f in (first, second)] == [("cut", True)] * 2
            assert len(peers) == 2

    run(main())


def test_retry_that_cannot_connect_says_that_bytes_were_sent() -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.request()
            await peer.send(OK)
            await peer.request()

        async with upstream(serve) as (port, _), pool(port) as made:
            await post(made)
            listener = made._connector
            listener._addresses = [(socket.AF_INET, ("127.0.0.1", unused_port()))]
            refused = await fault(post(made))
            assert (refused.kind, refused.sent) == ("connect", True)

    run(main())


def test_connection_close_is_respected() -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.request()
            await peer.send(OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
            await peer.end()

        async with upstream(serve) as (port, peers), pool(port) as made:
            assert await (await post(made)).read(9) == b"ok"
            await peers[0].gone.wait()
            await post(made)
            assert len(peers) == 2

    run(main())


def test_body_that_came_with_the_head_is_read_without_suspending() -> None:
    async def main() -> None:
        async with upstream(always_ok) as (port, _), pool(port) as made:
            response = await post(made)
            with pytest.raises(StopIteration) as stop:
                response.read(10).send(None)
            assert stop.value.value == b"ok"

    run(main())


def test_relay_streams() -> None:
    async def main() -> None:
        step = asyncio.Event()

        async def serve(peer: Peer) -> None:
            await peer.request()
            await peer.send(CHUNKED)
            for data in (b"one", b"two"):
                await peer.send(b"%x\r\n%b\r\n" % (len(data), data))
                await step.wait()
                step.clear()
            await peer.send(b"0\r\n\r\n")
            await peer.end()

        got: list[bytes] = []

        def sink(data: bytes) -> None:
            got.append(data)
            step.set()

        async with upstream(serve) as (port, _), pool(port) as made:
            await (await post(made)).relay(sink)
            assert got == [b"one", b"two"]
            assert len(made._idle) == 1

    run(main())


def test_cancelling_closes_the_upstream_at_once() -> None:
    async def main() -> None:
        begun = asyncio.Event()

        async def serve(peer: Peer) -> None:
            await peer.request()
            if peer.number:
                await peer.send(CHUNKED + b"1\r\na\r\n")
            begun.set()
            await peer.end()

        async def in_send(made: Pool) -> None:
            await post(made)

        async def in_read(made: Pool) -> None:
            await (await post(made)).read(100)

        async def in_relay(made: Pool) -> None:
            await (await post(made)).relay(lambda _: None)

        async with upstream(serve) as (port, peers), pool(port) as made:
            for number, call in enumerate((in_send, in_read, in_relay)):
                task = asyncio.create_task(call(made))
                await begun.wait()
                begun.clear()
                await asyncio.sleep(0.005)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                async with asyncio.timeout(0.1):
                    await peers[number].gone.wait()
                assert not made._busy
                assert not made._idle

    run(main())


def test_cancelling_a_call_whose_answer_is_whole_leaves_the_connection_to_others() -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.request()
            await peer.send(OK)
            await peer.end()

        async with upstream(serve) as (port, peers), pool(port) as made:
            await post(made)
            [connection] = made._idle
            task = asyncio.create_task(post(made))
            await until(lambda: bool(made._busy) and not connection.transport.get_write_buffer_size())
            connection.data_received(OK)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert made._idle == [connection]
            assert len(peers) == 1

    run(main())


def test_abort_wakes_who_waits() -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.request()
            await peer.send(CHUNKED)
            await peer.end()

        async with upstream(serve) as (port, peers), pool(port) as made:
            response = await post(made)
            reading = asyncio.create_task(response.read(10))
            await asyncio.sleep(0)
            response.abort()
            response.abort()
            assert (await fault(reading)).kind == "cut"
            await peers[0].gone.wait()

    run(main())


def test_close_ends_everything() -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.request()
            if peer.number:
                await peer.send(CHUNKED)
            await peer.end()

        async with upstream(serve) as (port, peers), pool(port) as made:
            waiting = asyncio.create_task(post(made))
            await until(lambda: bool(made._busy))
            response = await post(made)
            await made.close()
            assert (await fault(waiting)).kind == "cut"
            assert (await fault(response.read(10))).kind == "cut"
            late = await fault(post(made))
            assert (late.kind, late.sent) == ("connect", False)
            for peer in peers:
                await peer.gone.wait()

    run(main())


@pytest.mark.parametrize("secure", [False, True])
def test_slow_consumer_slows_the_upstream_in_bounded_memory(tmp_path: Path, secure: bool) -> None:
    server, ca_file = authority_files(tmp_path) if secure else (None, "")

    async def main() -> None:
        block = b"x" * 65536
        sent = 0

        async def serve(peer: Peer) -> None:
            nonlocal sent
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (len(block) * 800))
            for _ in range(800):
                await peer.send(block)
                sent += len(block)

        received = 0
        tls = client_tls(ca_file) if secure else None
        async with upstream(serve, server) as (port, _), pool(port, tls=tls, timeouts={"idle_s": 0.15}) as made:
            response = await post(made)

            def sink(data: bytes) -> None:
                nonlocal received
                received += len(data)
                if received > 20 * len(block):
                    response.pause()

            # First nobody asks, then the consumer pauses; each longer than the idle limit.
            await asyncio.sleep(0.4)
            unasked = sent
            relay = asyncio.create_task(response.relay(sink))
            await asyncio.sleep(0.4)
            paused_at = received
            assert paused_at < 30 * len(block)
            # What is on the way fits the kernel's buffers and ours.
            assert max(unasked, sent - received) < 16 << 20
            assert not relay.done()
            received -= 1 << 40
            response.resume()
            await relay
            assert received + (1 << 40) == len(block) * 800

    run(main())
