"""Upstreams that refuse, hang, drip, cut, reset: a call ends in the right fault, in time, and leaves nothing open."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
import struct
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from entrepot.http1.client import Endpoint, Fault, Pool, Response, client_tls
from entrepot.resources.model import Timeouts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

    Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\nx: y\r\n\r\n"


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(20):
            await coroutine

    uvloop.run(limited())


@contextlib.asynccontextmanager
async def upstream(serve: Serve) -> AsyncIterator[int]:
    serving: list[asyncio.Task[None]] = []

    async def attend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await serve(reader, writer)
        finally:
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(asyncio.create_task(attend(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        await server.wait_closed()


async def call(port: int, *, host: str = "127.0.0.1", body: bytes = b"", **options: Any) -> bytes | Fault:
    """One call on a pool of its own: the body, or the fault."""
    tls, proxy = options.pop("tls", None), options.pop("proxy", None)
    endpoint = Endpoint("http" if tls is None else "https", host, port, proxy)
    pool = Pool(endpoint, Timeouts(**options), tls)
    try:
        response = await pool.send("POST", "/", b"host: x\r\n", body)
        return await response.read(1 << 20)
    except Fault as fault:
        return fault
    finally:
        assert not pool._busy
        await pool.close()
        assert not pool._open


async def kind(port: int, **options: Any) -> tuple[str, bool]:
    fault = await call(port, **options)
    assert isinstance(fault, Fault)
    return fault.kind, fault.sent


async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    while await reader.read(65536):
        pass


def dead_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def black_hole() -> Any:
    """A port that answers no SYN: its queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def test_refused() -> None:
    async def main() -> None:
        assert await kind(dead_port()) == ("connect", False)

    run(main())


def test_no_such_name() -> None:
    async def main() -> None:
        assert await kind(80, host="no..name") == ("connect", False)

    run(main())


def test_connect_limit() -> None:
    async def main() -> None:
        with black_hole() as port:
            assert await kind(port, connect_s=0.1) == ("connect", False)

    run(main())


def test_next_address_is_tried_within_the_connect_limit() -> None:
    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(LENGTH)

        with black_hole() as hole:
            async with upstream(serve) as port:
                pool = Pool(Endpoint("http", "127.0.0.1", port), Timeouts(connect_s=0.9), None)
                pool._connector._fresh_until = float("inf")
                pool._connector._addresses = [
                    (socket.AF_INET, ("127.0.0.1", where)) for where in (dead_port(), hole, port)
                ]
                response = await pool.send("POST", "/", b"host: x\r\n", b"")
                assert await response.read(9) == b"hello"
                await pool.close()

    run(main())


def test_known_addresses_outlive_the_name() -> None:
    async def main() -> None:
        pool = Pool(Endpoint("http", "no..name", 80), Timeouts(connect_s=1.0), None)
        with pytest.raises(Fault):
            await pool.send("POST", "/", b"host: x\r\n", b"")
        known: Any = (socket.AF_INET, ("127.0.0.1", 1))
        pool._connector._addresses = [known]
        assert await pool._connector._resolve(asyncio.get_running_loop()) == [known]
        await pool.close()

    run(main())


def test_tls_never_answered_or_not_tls() -> None:
    async def main() -> None:
        tls = client_tls()

        async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(100)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        async def gone(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
            await reader.read(1)

        async with upstream(silent) as port:
            assert await kind(port, tls=tls, connect_s=0.1) == ("tls", False)
        for serve in (plain, gone):
            async with upstream(serve) as port:
                assert await kind(port, tls=tls) == ("tls", False)

    run(main())


def test_no_answer() -> None:
    async def main() -> None:
        async with upstream(silent) as port:
            assert await kind(port, first_byte_s=0.05) == ("first_byte", True)
            assert await kind(port, total_s=0.05) == ("total", True)

    run(main())


def test_request_that_is_never_read() -> None:
    async def main() -> None:
        async def deaf(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            await asyncio.sleep(10)

        async with upstream(deaf) as port:
            assert await kind(port, body=b"x" * 30_000_000, first_byte_s=0.2) == ("first_byte", True)

    run(main())


@pytest.mark.parametrize(
    ("drip", "limits", "want"),
    [
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 1000, {"first_byte_s": 0.15, "idle_s": 0.1}, "first_byte"),
        (b"HTTP/1.1 102 Processing\r\n\r\n" * 7, {"first_byte_s": 0.15, "idle_s": 0.1}, "first_byte"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n" + b"y" * 9000, {"total_s": 0.3, "idle_s": 0.2}, "total"),
    ],
)
def test_dripping(drip: bytes, limits: dict[str, float], want: str) -> None:
    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            for at in range(0, len(drip), 7):
                writer.write(drip[at : at + 7])
                await writer.drain()
                await asyncio.sleep(0.01)

        async with upstream(serve) as port:
            assert await kind(port, **limits) == (want, True)

    run(main())


def test_silence_in_the_middle() -> None:
    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(CHUNKED[:-14])
            await silent(reader, writer)

        async with upstream(serve) as port:
            assert await kind(port, idle_s=0.1) == ("idle", True)

    run(main())


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("data", [LENGTH, CHUNKED])
def test_cut_at_every_byte(data: bytes, reset: bool) -> None:
    async def main() -> None:
        at = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(data[:at])
            if reset:
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()

        async with upstream(serve) as port:
            for at in range(len(data)):
                assert await kind(port) == ("cut", True), at
            at = len(data)
            whole = await call(port)
            # A reset may overtake the bytes before it.
            assert whole == b"hello" or (reset and isinstance(whole, Fault) and whole.kind == "cut")

    run(main())


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 502 Bad Gateway\r\n\r\n",
        b"SSH-2.0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nearly",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 20_000,
    ],
)
def test_broken_proxy(answer: bytes) -> None:
    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)

        async with upstream(serve) as port:
            fault = await call(443, host="upstream.test", tls=client_tls(), proxy=f"http://me:sesame@127.0.0.1:{port}")
            assert isinstance(fault, Fault)
            assert (fault.kind, fault.sent) == ("connect", False)
            assert "sesame" not in str(fault)

    run(main())


def test_silent_proxy() -> None:
    async def main() -> None:
        async with upstream(silent) as port:
            proxy = f"http://127.0.0.1:{port}"
            assert await kind(443, tls=client_tls(), proxy=proxy, connect_s=0.1) == ("connect", False)

    run(main())


def test_cancelled_while_connecting() -> None:
    async def main() -> None:
        tls: ssl.SSLContext = client_tls()
        with black_hole() as hole:
            async with upstream(silent) as port:
                for where, context in ((hole, None), (port, tls)):
                    task = asyncio.create_task(call(where, tls=context))
                    await asyncio.sleep(0.05)
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task

    run(main())


def test_upstream_that_dies_under_load() -> None:
    """Every call ends, in an answer or a fault; no connection is counted on after it broke."""

    async def main() -> None:
        served = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal served
            while True:
                await reader.readuntil(b"\r\n\r\n")
                served += 1
                if served % 7 == 0:
                    writer.write(CHUNKED[: served % len(CHUNKED)])
                    return
                writer.write(CHUNKED)

        async with upstream(serve) as port:
            pool = Pool(Endpoint("http", "127.0.0.1", port), Timeouts(), None)
            ended: dict[str, int] = {}

            async def client() -> None:
                for _ in range(40):
                    try:
                        response = await pool.send("POST", "/", b"host: x\r\n", b"")
                        end = (await response.read(100)).decode()
                    except Fault as fault:
                        end = fault.kind
                    ended[end] = ended.get(end, 0) + 1

            await asyncio.gather(*(client() for _ in range(20)))
            assert set(ended) == {"hello", "cut"}
            assert sum(ended.values()) == 800
            assert not pool._busy
            await pool.close()

    run(main())


class Chaos:
    """An upstream that echoes bodies, with cuts, delays, stray bytes; a client that gives up, pauses, cancels."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.whole = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        dice = self.dice
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            size = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
            body = await reader.readexactly(size)
            answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (size, body)
            if dice.random() < 0.5:
                chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
                answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%b0\r\n\r\n" % chunks
            fate = dice.random()
            if fate < 0.1:
                writer.write(answer[: dice.randrange(len(answer))])
                return
            at = dice.randrange(len(answer))
            if fate < 0.2:
                # In the write of the end: once the next request is out, nobody could tell it from an answer to that.
                answer += b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwrong"[: dice.randrange(44)]
            writer.write(answer[:at])
            await asyncio.sleep(dice.choice((0, 0.001)))
            if writer.is_closing():
                return
            writer.write(answer[at:])

    async def call(self, pool: Pool, body: bytes) -> None:
        response = await pool.send("POST", "/", b"host: x\r\n", body)
        way = self.dice.random()
        if way < 0.1:
            response.abort()
            return
        if way < 0.5:
            assert await response.read(100) == body
        else:
            await self.relay(response, body)
        self.whole += 1

    async def relay(self, response: Response, body: bytes) -> None:
        blocks: list[bytes] = []

        def sink(block: bytes) -> None:
            blocks.append(block)
            if self.dice.random() < 0.3:
                response.pause()
                asyncio.get_running_loop().call_soon(response.resume)

        await response.relay(sink)
        assert b"".join(blocks) == body

    async def client(self, pool: Pool, number: int) -> None:
        for turn in range(60):
            call = asyncio.create_task(self.call(pool, b"call %d of %d" % (turn, number)))
            if self.dice.random() < 0.1:
                await asyncio.sleep(self.dice.random() * 0.002)
                call.cancel()
            with contextlib.suppress(Fault, asyncio.CancelledError):
                await call


@pytest.mark.parametrize("seed", range(3))
def test_no_call_gets_the_answer_of_another(seed: int) -> None:
    async def main() -> None:
        chaos = Chaos(seed)
        async with upstream(chaos.serve) as port:
            pool = Pool(Endpoint("http", "127.0.0.1", port), Timeouts(), None, max_idle=4)
            try:
                await asyncio.gather(*(chaos.client(pool, number) for number in range(12)))
                assert chaos.whole > 400
                assert not pool._busy
                assert len(pool._idle) <= 4
            finally:
                await pool.close()
            assert not pool._open

    run(main())
