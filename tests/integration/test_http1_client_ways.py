"""The ways to an upstream: TLS, proxies, several addresses, and what is refused before any of them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest
from raw_upstreams import HEAD, Peer, always_ok, authority_files, fault, pool, post, run, unused_port, upstream

from entrepot.http1.client import Endpoint, Pool, client_tls
from entrepot.resources.model import Timeouts

if TYPE_CHECKING:
    from pathlib import Path


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
