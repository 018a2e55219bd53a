"""Do the many that wait hinder the few that call? Idle keep-alive connections and readers that stopped reading.

Starts a gateway over `bench/world` with its upstreams on free ports, calls it over one connection with nobody else
there, opens the idle connections and the slow readers, and calls again. Prints the latencies, and the memory of the
worker. Needs about as many open files as there are connections, in this process and in the gateway's.
"""

from __future__ import annotations

import argparse
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from statistics import quantiles

HERE = Path(__file__).parent
KEY = "sk-bench-0123456789abcdef0123456789abcdef"
EVENT = b'data: {"id":"x","choices":[{"index":0,"delta":{"content":"' + b"y" * 400 + b'"}}]}\n\n'
BLOCK = EVENT * 64
Address = tuple[str, int]


class Endless:
    """An upstream whose streams never end; it counts the bytes that it could send."""

    def __init__(self) -> None:
        self.sent = 0
        self.open = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1_024)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            sock, _ = self._listener.accept()
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        self.open += 1
        with sock, suppress(OSError):
            sock.recv(65_536)
            sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            while True:
                sock.sendall(b"%x\r\n%b\r\n" % (len(BLOCK), BLOCK))
                self.sent += len(BLOCK)
        self.open -= 1


class Started:
    """A process of ours, ended with the block; `found` is what its first line of output tells."""

    def __init__(self, command: list[str], tells: str) -> None:
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        found = re.search(tells, self.process.stdout.readline())
        if found is None:
            raise SystemExit(f"`{' '.join(command)}` did not start")
        self.found = found

    def __enter__(self) -> Started:  # noqa: PYI034
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        if self.process.stdout is not None:
            self.process.stdout.close()


def request(model: str, stream: bool) -> bytes:
    body = '{"model":"%s","stream":%s,"messages":[{"role":"user","content":"hello"}]}' % (model, str(stream).lower())  # noqa: UP031
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n{body}".encode()


def answer(sock: socket.socket) -> None:
    """Read one answer with a Content-Length; 200 or the end of everything."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += sock.recv(65_536)
    head, _, rest = data.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise SystemExit(f"a call failed: {data[:400]!r}")
    length = int(head.lower().partition(b"content-length:")[2].split()[0])
    while len(rest) < length:
        rest += sock.recv(65_536)


def latencies_ms(address: Address, count: int) -> list[float]:
    call, took = request("gpt-4o", stream=False), []
    with socket.create_connection(address, timeout=60) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number in range(count + 100):
            started = time.perf_counter()
            sock.sendall(call)
            answer(sock)
            if number >= 100:
                took.append((time.perf_counter() - started) * 1_000)
    return took


def slow_reader(address: Address) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    sock.settimeout(60)
    sock.connect(address)
    sock.sendall(request("gpt-4o-mini", stream=True))
    if not sock.recv(64).startswith(b"HTTP/1.1 200"):
        raise SystemExit("a stream did not begin")
    return sock


def idle(address: Address) -> socket.socket:
    """A connection that has been served once and is kept."""
    sock = socket.create_connection(address, timeout=60)
    sock.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
    answer(sock)
    return sock


def resident_mib(parent: int) -> float:
    """Of the worker, which is the parent's only child."""
    worker = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()[0]
    return int(Path(f"/proc/{worker}/status").read_text().partition("VmRSS:")[2].split()[0]) / 1_024


def quiet(upstream: Endless) -> None:
    """Wait until the slow readers' upstreams are all held."""
    sent = -1
    while sent != upstream.sent:
        sent = upstream.sent
        time.sleep(1.0)


def line(what: str, took: list[float], mib: float) -> str:
    cuts = quantiles(took, n=100)
    return f"{what:<46} p50 {cuts[49]:6.2f} ms   p99 {cuts[98]:6.2f} ms   worker {mib:6.1f} MiB"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--idle", type=int, default=10_000, help="connections; default: %(default)s")
    arguments.add_argument("--slow", type=int, default=200, help="readers; default: %(default)s")
    arguments.add_argument("--calls", type=int, default=3_000, help="in each measurement; default: %(default)s")
    chosen = arguments.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    entrepot = [sys.executable, "-m", "entrepot"]
    upstream = Endless()
    with ExitStack() as stack:
        world = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sim = stack.enter_context(Started([*entrepot, "sim"], r"http://(\S+)"))
        text = (HERE / "world" / "world.toml").read_text()
        text = text.replace("127.0.0.1:18100", sim.found[1]).replace("127.0.0.1:18101", f"127.0.0.1:{upstream.port}")
        (world / "world.toml").write_text(re.sub(r"127\.0\.0\.1:1811\d", "127.0.0.1:0", text))
        command = [*entrepot, "gateway", "--world", str(world), "--data", str(world / "data")]
        gateway = stack.enter_context(Started(command, r"http://([^:]+):(\d+)"))
        address, pid = (gateway.found[1], int(gateway.found[2])), gateway.process.pid

        def measure(what: str) -> None:
            print(line(what, latencies_ms(address, chosen.calls), resident_mib(pid)), flush=True)

        measure("nobody else")
        measure("nobody else, again")
        with ExitStack() as waiting:
            for _ in range(chosen.idle):
                waiting.enter_context(idle(address))
            measure(f"beside {chosen.idle} idle connections")
            for _ in range(chosen.slow):
                waiting.enter_context(slow_reader(address))
            quiet(upstream)
            held, open_now = upstream.sent, upstream.open
            measure(f"and {chosen.slow} slow readers")
            print(
                f"upstreams of slow readers: {open_now} open, held after {held / max(open_now, 1) / 2**20:.1f} MiB each"
            )
            if upstream.sent != held:
                raise SystemExit("an upstream of a slow reader was read on")
        time.sleep(1.0)
        measure("after they all left")
        print(f"upstreams of slow readers: {upstream.open} open")


if __name__ == "__main__":
    main()
