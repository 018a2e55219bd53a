"""The pool against raw servers on loopback: keep-alive, staleness, flow control, cancelling, TLS, proxies."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import socket
import ssl
import struct
from typing import TYPE_CHECKING, Any

import pytest
import trustme
import uvloop

from entrepot.http1.client import Endpoint, Fault, Pool, Response, client_tls
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


def unused_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


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


def authority_files(folder: Path) -> tuple[ssl.SSLContext, str]:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("upstream.test", "127.0.0.1").configure_cert(server)
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    return server, str(folder / "ca.pem")


def test_tls_with_verification_and_name(tmp_path: Path) -> None:
    server, ca_file = authority_files(tmp_path)
    names: list[str | None] = []
    server.sni_callback = lambda _socket, name, _context: names.append(name)
    server.set_alpn_protocols(["h2", "http/1.1"])
    body = b"z" * 3_000_000

    async def main() -> None:
        async def serve(peer: Peer) -> None:
            assert peer.writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
            while True:
                request = await peer.request()
                await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
                assert request.endswith(b"y" * 500_000)

        async with upstream(serve, server) as (port, peers):
            async with pool(port, tls=client_tls(ca_file)) as made:
                for _ in range(2):
                    assert await (await post(made, b"y" * 500_000)).read(len(body)) == body
                assert len(peers) == 1
            async with pool(port, tls=client_tls(ca_file), host="localhost") as made:
                wrong_name = await fault(post(made))
            async with pool(port, tls=client_tls()) as made:
                stranger = await fault(post(made))
            for refused in (wrong_name, stranger):
                assert (refused.kind, refused.sent) == ("tls", False)
                assert "certificate" in str(refused)
            assert names == [None, "localhost", None]

    run(main())


def test_tls_body_that_ends_without_notice_is_cut(tmp_path: Path) -> None:
    server, ca_file = authority_files(tmp_path)

    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\n\r\nhalf")
            if peer.number:
                peer.writer.close()
                await peer.end()
            else:
                # Shutting the socket itself: a FIN without close_notify, as anyone on the way could send.
                with socket.socket(fileno=os.dup(peer.writer.get_extra_info("socket").fileno())) as raw:
                    raw.shutdown(socket.SHUT_WR)
                await peer.end()

        async with upstream(serve, server) as (port, _), pool(port, tls=client_tls(ca_file)) as made:
            assert (await fault((await post(made)).read(100))).kind == "cut"
            assert await (await post(made)).read(100) == b"half"

    run(main())


@pytest.mark.parametrize("reset", [False, True])
def test_body_that_ends_with_the_connection(reset: bool) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
            await peer.send(b"to the end")
            if reset:
                await asyncio.sleep(0.01)
                sock = peer.writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                peer.writer.transport.abort()

        async with upstream(serve) as (port, _), pool(port) as made:
            response = await post(made)
            if reset:
                assert (await fault(response.read(100))).kind == "cut"
            else:
                assert await response.read(100) == b"to the end"
            assert not made._idle

    run(main())


async def proxy_serve(peer: Peer) -> None:
    """CONNECT for one user, to 127.0.0.1 whatever the name; plain requests are answered with their own first bytes."""
    head = await peer.request()
    if base64.b64encode(b"user:p@ss") not in head:
        await peer.send(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")
        return
    if not head.startswith(b"CONNECT "):
        line = head.split(b"\r\n")[0]
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(line) + line)
        return
    port = int(head.split()[1].rpartition(b":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await peer.send(b"HTTP/1.1 200 Connection established\r\nvia: x\r\n\r\n")

    async def pump() -> None:
        while data := await reader.read(65536):
            await peer.send(data)
        peer.writer.close()

    back = asyncio.create_task(pump())
    with contextlib.suppress(ConnectionError):
        while data := await peer.reader.read(65536):
            writer.write(data)
    writer.close()
    await back


def test_https_through_a_proxy(tmp_path: Path) -> None:
    server, ca_file = authority_files(tmp_path)

    async def main() -> None:
        async with upstream(always_ok, server) as (port, peers), upstream(proxy_serve) as (proxy_port, proxies):
            tls = client_tls(ca_file)
            proxy = f"http://user:p%40ss@127.0.0.1:{proxy_port}"
            async with pool(port, tls=tls, host="upstream.test", proxy=proxy) as made:
                for _ in range(2):
                    assert await (await post(made)).read(9) == b"ok"
            assert len(peers) == len(proxies) == 1
            assert proxies[0].requests[0].startswith(b"CONNECT upstream.test:%d HTTP/1.1\r\nhost: upstream.test" % port)
            assert b"proxy" not in peers[0].requests[0]
            async with pool(port, tls=tls, host="other.test", proxy=proxy) as made:
                assert (await fault(post(made))).kind == "tls"
            async with pool(port, tls=tls, host="upstream.test", proxy=proxy.replace("p%40ss", "sesame")) as made:
                refused = await fault(post(made))
            assert (refused.kind, refused.sent) == ("connect", False)
            assert "407" in str(refused)
            assert "sesame" not in repr(refused)
            assert "user" not in repr(refused)

    run(main())


def test_http_through_a_proxy_and_none_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")

    async def main() -> None:
        async with upstream(proxy_serve) as (port, peers):
            async with pool(80, host="upstream.test", proxy=f"http://user:p%40ss@127.0.0.1:{port}") as made:
                response = await post(made)
                assert await response.read(100) == b"POST http://upstream.test/v1/x HTTP/1.1"
            assert peers[0].requests[0].count(b"proxy-authorization: Basic ") == 1
        async with upstream(always_ok) as (port, _), pool(port) as made:
            assert (await post(made)).status == 200

    run(main())


@pytest.mark.parametrize(
    "url", ["https://h:1", "h:1", "http://", "http://u:sesame@h:x", "http://u:sesame@[h", "http://h/p"]
)
def test_malformed_proxy_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match="the proxy is not") as caught:
        Pool(Endpoint("http", "h", 80, url), Timeouts(), None)
    assert "sesame" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_no_password_in_representations() -> None:
    endpoint = Endpoint("https", "::1", 443, "http://me:sesame@h:1")
    made = Pool(endpoint, Timeouts(), client_tls())
    for each in (endpoint, made, made._connector, made._connector.proxy):
        assert "sesame" not in repr(each)
        assert "c2VzYW1l" not in repr(each)
    assert repr(endpoint) == "Endpoint(https://[::1]:443, by a proxy)"


def test_what_cannot_be_sent_is_refused() -> None:
    with pytest.raises(ValueError, match="TLS context"):
        Pool(Endpoint("https", "h", 443, None), Timeouts(), None)
    with pytest.raises(ValueError, match="host name"):
        Pool(Endpoint("http", "h\r\nx: y", 80, None), Timeouts(), None)

    async def main() -> None:
        made = Pool(Endpoint("http", "127.0.0.1", 1, None), Timeouts(), None)
        for target in ("/a b", "/a\r\nx: y", "/ä", "x", "", "/a\0", "http://other/"):
            with pytest.raises(ValueError, match="target"):
                await made.send("GET", target, HEAD, b"")
        await made.close()

    run(main())


def test_addresses_are_tried_in_order_and_remembered() -> None:
    async def main() -> None:
        async with upstream(always_ok) as (port, _), pool(port, host="localhost") as made:
            connector = made._connector
            lookups = 0
            loop = asyncio.get_running_loop()

            class Resolving:
                async def getaddrinfo(self, host: str, asked: int, **_: Any) -> list[Any]:
                    nonlocal lookups
                    lookups += 1
                    assert (host, asked) == ("localhost", port)
                    dead = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", unused_port()))
                    return [dead, (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

                def __getattr__(self, name: str) -> Any:
                    return getattr(loop, name)

            for _ in range(2):
                assert len(await connector._resolve(Resolving())) == 2  # type: ignore[arg-type]
            assert lookups == 1
            assert (await post(made)).status == 200

    run(main())
