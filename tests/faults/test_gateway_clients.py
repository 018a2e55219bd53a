"""Clients that go away, read slowly or only sit there: what they hold is let go of, and nobody else pays for them."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import pytest

from entrepot.sim.server import simulated
from entrepot.sim.settings import Rule, Settings
from harness import Account, Fleet, Gateway, House, Upstream, World, ask, asked, body_of, call_bytes, opened, raw, until

IDLE = 2_000
SLOW = 30
SETTLED_S = 0.3


def begun(sock: socket.socket) -> None:
    seen = b""
    while b"data: " not in seen:
        block = sock.recv(1_000)
        assert block, seen
        seen += block


def leave(sock: socket.socket, how: str) -> None:
    if how == "reset":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if how == "half":
        sock.shutdown(socket.SHUT_WR)
    else:
        sock.close()


@pytest.mark.parametrize("how", ["close", "reset", "half"])
@pytest.mark.parametrize("when", ["mid-stream", "before the first byte"])
def test_a_client_that_leaves_takes_its_upstream_call_with_it(house: House, when: str, how: str) -> None:
    """The measure is the best of three: what else runs on the machine is not what is judged."""
    streams = when == "mid-stream"
    house.openai.use(Settings(script=(Rule(pace_ms=20, tokens=10_000) if streams else Rule(fault="hang"),)))
    status = "200" if streams else "0"
    series = f'entrepot_calls_total{{operation="chat",outcome="client_gone",status="{status}"}}'
    gone = house.gateway.metric(series)
    took_s = []
    for _ in range(3):
        requests, abandoned = house.openai.counters.requests, house.openai.counters.abandoned
        with raw(house.gateway.data, call_bytes(body_of(stream=streams), house.key())) as sock:
            if streams:
                begun(sock)
            until(lambda: house.openai.counters.requests > requests, "the upstream has been asked")  # noqa: B023
            left = time.monotonic()
            leave(sock, how)
            while house.openai.counters.abandoned == abandoned:
                assert time.monotonic() < left + 10, "the upstream connection stays open"
                time.sleep(0.001)
            took_s.append(time.monotonic() - left)
    print(f"{when}, {how}: {[round(s * 1_000, 1) for s in took_s]} ms")
    assert min(took_s) <= 0.1
    until(lambda: house.gateway.metric(series) == gone + 3, "they are counted")


def test_a_client_that_leaves_at_the_end_of_a_stream_was_served(house: House) -> None:
    """OpenAI's SDK closes the connection at `[DONE]`, which an upstream may take its time to end."""
    house.openai.use(Settings(script=(Rule(tokens=2, pace_ms=500),)))
    series = 'entrepot_calls_total{operation="chat",outcome="%s",status="200"}'
    served, gone = (house.gateway.metric(series % word) for word in ("served", "client_gone"))
    abandoned = house.openai.counters.abandoned
    with raw(house.gateway.data, call_bytes(body_of(stream=True), house.key())) as sock:
        seen = b""
        while b"data: [DONE]" not in seen:
            block = sock.recv(1_000)
            assert block, seen
            seen += block
    until(lambda: house.openai.counters.abandoned > abandoned, "the upstream had not ended it yet")
    until(lambda: house.gateway.metric(series % "served") == served + 1, "it is counted")
    assert house.gateway.metric(series % "client_gone") == gone


class Firehose:
    """An upstream whose streams never end. It counts what it could send on each connection."""

    def __init__(self) -> None:
        event = b'data: {"id":"x","choices":[{"index":0,"delta":{"content":"' + b"y" * 400 + b'"}}]}\n\n'
        block = event * 64
        self._chunk = b"%x\r\n%b\r\n" % (len(block), block)
        self.sent: list[int] = []
        self.open = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _accept(self) -> None:
        threads = []
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                break
            self.sent.append(0)
            self.open += 1
            threads.append(threading.Thread(target=self._serve, args=(sock, len(self.sent) - 1)))
            threads[-1].start()
        for thread in threads:
            thread.join()

    def _serve(self, sock: socket.socket, number: int) -> None:
        with sock, contextlib.suppress(OSError):
            sock.recv(65_536)
            sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            while True:
                sock.sendall(self._chunk)
                self.sent[number] += len(self._chunk)
        self.open -= 1


@pytest.fixture(scope="module")
def hose() -> Iterator[Firehose]:
    with Firehose() as hose:
        yield hose


@pytest.fixture(scope="module")
def gateway(fleet: Fleet, hose: Firehose, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    home = tmp_path_factory.mktemp("clients")
    account = Account("caller", deployments=(("quick", "quick", "Standard"), ("endless", "endless", "Standard")))
    with simulated() as sim:
        upstreams = [Upstream("quick", sim.base_url, {"quick": "quick"}), Upstream("hose", hose.url, {"endless": "e"})]
        world = World(home / "world", upstreams, [account])
        world.write()
        with fleet.gateway(world, home / "gateway") as gateway:
            yield gateway


def resident_kib(gateway: Gateway) -> int:
    (worker,) = gateway.workers()
    status = Path(f"/proc/{worker}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def slow_reader(gateway: Gateway, key: str) -> socket.socket:
    """Its receive buffer is small, and nothing is read after the first event."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    sock.settimeout(30)
    sock.connect((gateway.data.host, gateway.data.port))
    sock.sendall(call_bytes(body_of("endless", stream=True), key))
    begun(sock)
    return sock


def settled(hose: Firehose) -> int:
    """What has been sent in all, once no more is."""
    total = -1
    while total != (total := sum(hose.sent)):
        time.sleep(SETTLED_S)
    return total


def calls_ms(gateway: Gateway, key: str, count: int = 40) -> list[float]:
    took = []
    with opened(gateway.data) as connection:
        for _ in range(count):
            started = time.monotonic()
            assert asked(connection, body=body_of("quick"), key=key).status == 200
            took.append((time.monotonic() - started) * 1_000)
    return sorted(took)


def test_slow_readers_hold_up_their_own_upstreams_and_nobody_else(gateway: Gateway, hose: Firehose) -> None:
    key = gateway.world.accounts[0].key
    before_ms, before_kib = calls_ms(gateway, key), resident_kib(gateway)
    with ExitStack() as stack:
        slow = [stack.enter_context(slow_reader(gateway, key)) for _ in range(SLOW)]
        sent = settled(hose)
        during_ms, grown_kib = calls_ms(gateway, key), resident_kib(gateway) - before_kib
        print(f"{SLOW} slow readers: {grown_kib / SLOW:.0f} KiB each, upstream held after {sent // SLOW // 1024} KiB")
        print(f"a call's median: {before_ms[20]:.1f} ms before, {during_ms[20]:.1f} ms during")
        assert grown_kib < SLOW * 1_024
        assert sum(hose.sent) == sent  # nothing more was read from upstream meanwhile

        quick, end = slow.pop(), time.monotonic() + 20
        while sum(hose.sent) == sent:  # this one reads on, through all that the kernel's buffers hold, and then:
            assert time.monotonic() < end, "its upstream goes on"
            quick.recv(65_536)
        time.sleep(SETTLED_S)
        assert sum(count > sent // SLOW * 1.5 for count in hose.sent) <= 1
    until(lambda: hose.open == 0, "all upstream connections are closed")
    assert ask(gateway.data, body=body_of("quick"), key=key).status == 200


def test_idle_connections_cost_little_and_hinder_nobody(gateway: Gateway) -> None:
    """The full figure is `bench/idle.py`'s."""
    key = gateway.world.accounts[0].key
    before_ms, before_kib = calls_ms(gateway, key), resident_kib(gateway)
    with ExitStack() as stack:
        idle = []
        for number in range(IDLE):
            request = b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n" if number % 10 == 0 else b""
            idle.append(stack.enter_context(raw(gateway.data, request)))
        for sock in idle[::10]:
            assert sock.recv(1_000).startswith(b"HTTP/1.1 200")
        until(lambda: gateway.metric("entrepot_connections") >= IDLE, "all are accepted")
        during_ms, grown_kib = calls_ms(gateway, key), resident_kib(gateway) - before_kib
        print(f"{IDLE} idle connections: {grown_kib / IDLE:.1f} KiB each")
        print(f"a call's median: {before_ms[20]:.1f} ms before, {during_ms[20]:.1f} ms during")
        assert grown_kib < IDLE * 16
        for sock in idle[::100]:  # they are served as soon as they ask
            sock.sendall(call_bytes(body_of("quick"), key))
            assert b"HTTP/1.1 200" in sock.recv(1_000)
    until(lambda: gateway.metric("entrepot_connections") == 0, "all are gone")
