"""One line a call on standard error: what was asked, and what became of it. Never content, secrets or headers."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from datetime import UTC, datetime
from queue import SimpleQueue
from typing import Final

import msgspec

from entrepot.gateway.call import Call
from entrepot.gateway.upstreams import now_s

FLUSH_S: Final = 0.25
MOST: Final = 16
"""Batches that may wait while standard error takes nothing; what comes then is counted only."""
ATOMIC: Final = 4_096
"""What a pipe takes whole, so that lines of several processes do not mix (POSIX.1, PIPE_BUF on Linux)."""
AT_ONCE: Final = 262_144
"""Into a file, which takes that whole too: each write is a turn that the thread takes from the loop."""

_quoted: Final = msgspec.json.encode


def line_of(call: Call, result: str, at: str) -> bytes:
    """Of a call that is settled, in the form of `telemetry.log`. What it did not get to is left out.

    `at` is its arrival as text. The client's address is only there where `[gateway] access_log` asks for it.
    """
    ms = round((now_s() - call.started_s) * 1_000)
    parts = [
        b'{"at":"%b","at_ms":%d,"request":"%b","operation":"%b","status":%d,"result":"%b","ms":%d'
        % (at.encode(), call.at_ms, call.id.encode(), call.operation.encode(), call.status, result.encode(), ms)
    ]
    account, deployment, error, candidate = call.account, call.deployment, call.error, call.candidate
    if account is not None:
        parts.append(b',"account":%b' % _quoted(account.name))
    if deployment is not None:
        parts.append(b',"deployment":%b' % _quoted(deployment.name))
    if error is not None:
        parts.append(b',"code":%b' % _quoted(error.name or error.code.label))
    if candidate is not None:
        told = _quoted(candidate.upstream), _quoted(candidate.region), len(call.attempts)
        parts.append(b',"upstream":%b,"region":%b,"tries":%d' % told)
    if call.first_byte_s is not None:
        parts.append(b',"first_byte_ms":%d' % round((call.first_byte_s - call.started_s) * 1_000))
    if call.usage is not None:
        parts.append(b',"prompt_tokens":%d,"completion_tokens":%d' % (call.usage.prompt, call.usage.completion))
    if call.place is not None:
        parts.append(b',"receipt":"%b"' % call.place.text.encode())
    if call.snapshot.gateway.access_log == "address":
        request = call.exchange.request
        address = call.snapshot.origins.address(request.peer, request.headers.get(call.snapshot.origin_header))
        if address:
            parts.append(b',"address":%b' % _quoted(address))
    parts.append(b',"level":"info","from":"entrepot.gateway","event":"call"}\n')
    return b"".join(parts)


class Instants:
    """As text in UTC, to the millisecond (RFC 3339). Those of one second are told apart by their end only."""

    def __init__(self) -> None:
        self._second = self._at_ms = -1
        self._text = self._whole = ""

    def text(self, at_ms: int) -> str:
        if at_ms == self._at_ms:
            return self._whole
        self._at_ms = at_ms
        second, ms = divmod(at_ms, 1_000)
        if second != self._second:
            self._second, self._text = second, datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        self._whole = f"{self._text}.{ms:03d}+00:00"
        return self._whole


def block_of(fd: int) -> int:
    """So many bytes are written at one go."""
    try:
        return AT_ONCE if stat.S_ISREG(os.fstat(fd).st_mode) else ATOMIC
    except OSError:  # it is closed: nobody reads
        return ATOMIC


class AccessLog:
    """Lines wait for a quarter of a second, then a thread writes them: a slow reader of them keeps no call waiting."""

    def __init__(self, fd: int = 2) -> None:
        """For the running loop. `close` when done."""
        self.dropped = 0
        self._fd = fd
        self._block = block_of(fd)
        self._instants = Instants()
        self._loop = asyncio.get_running_loop()
        self._waiting: list[bytes] = []
        self._jobs: SimpleQueue[list[bytes] | None] = SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="access log", daemon=True)
        self._writer.start()

    def add(self, call: Call, result: str) -> None:
        if not self._waiting:
            self._loop.call_later(FLUSH_S, self._flush)
        self._waiting.append(line_of(call, result, self._instants.text(call.at_ms)))

    async def close(self) -> None:
        """What waits is written, if it is taken within a second."""
        self._flush()
        self._jobs.put(None)
        await asyncio.to_thread(self._writer.join, 1.0)

    def _flush(self) -> None:
        lines, self._waiting = self._waiting, []
        if self._jobs.qsize() >= MOST:
            self.dropped += len(lines)
        elif lines:
            self._jobs.put(lines)

    def _write(self) -> None:
        while (lines := self._jobs.get()) is not None:
            block: list[bytes] = []
            size = 0
            for line in lines:
                if size + len(line) > self._block:
                    self._out(b"".join(block))
                    block, size = [], 0
                block.append(line)
                size += len(line)
            self._out(b"".join(block))

    def _out(self, block: bytes) -> None:
        try:
            while block:
                block = block[os.write(self._fd, block) :]
        except OSError:  # whoever read it has gone: calls go on
            self.dropped += block.count(b"\n")
