"""One line a call on standard error: what was asked, and what became of it. Never content, secrets or headers."""

from __future__ import annotations

import asyncio
import os
import threading
from datetime import UTC, datetime
from queue import SimpleQueue
from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from entrepot.gateway.call import Call
from entrepot.gateway.upstreams import now_s

FLUSH_S: Final = 0.25
MOST: Final = 16
"""Batches that may wait while standard error takes nothing; what comes then is counted only."""
ATOMIC: Final = 4_096
"""What a pipe takes whole, so that lines of several processes do not mix (POSIX.1, PIPE_BUF on Linux)."""

Text = str | UnsetType
Number = int | UnsetType


class Line(msgspec.Struct, rename={"from_": "from"}, gc=False):
    """In the form of `telemetry.log`. What a call did not get to is left out. `at_ms` is its arrival."""

    at: str
    at_ms: int
    request: str
    operation: str
    status: int
    result: str
    ms: int
    account: Text = UNSET
    deployment: Text = UNSET
    code: Text = UNSET
    upstream: Text = UNSET
    region: Text = UNSET
    tries: Number = UNSET
    first_byte_ms: Number = UNSET
    prompt_tokens: Number = UNSET
    completion_tokens: Number = UNSET
    receipt: Text = UNSET
    address: Text = UNSET
    level: str = "info"
    from_: str = "entrepot.gateway"
    event: str = "call"


def line_of(call: Call, result: str) -> Line:
    """Of a call that is settled. The client's address only where `[gateway] access_log` asks for it."""
    line = Line("", call.at_ms, call.id, call.operation, call.status, result, round((now_s() - call.started_s) * 1_000))
    if call.account is not None:
        line.account = call.account.given.name
    if call.deployment is not None:
        line.deployment = call.deployment.name
    error = call.error
    if error is not None:
        line.code = error.name or error.code.label
    candidate = call.candidate
    if candidate is not None:
        line.upstream, line.region, line.tries = candidate.upstream, candidate.region, len(call.attempts)
    if call.first_byte_s is not None:
        line.first_byte_ms = round((call.first_byte_s - call.started_s) * 1_000)
    if call.usage is not None:
        line.prompt_tokens, line.completion_tokens = call.usage.prompt, call.usage.completion
    if call.place is not None:
        line.receipt = str(call.place)
    if call.snapshot.gateway.access_log == "address":
        request = call.exchange.request
        line.address = (
            call.snapshot.origins.address(request.peer, request.headers.get(call.snapshot.origin_header)) or UNSET
        )
    return line


class Instants:
    """As text in UTC, to the millisecond (RFC 3339). Those of one second are told apart by their end only."""

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def text(self, at_ms: int) -> str:
        second, ms = divmod(at_ms, 1_000)
        if second != self._second:
            self._second, self._text = second, datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._text}.{ms:03d}+00:00"


class AccessLog:
    """Lines wait for a quarter of a second, then a thread writes them: a slow reader of them keeps no call waiting."""

    def __init__(self, fd: int = 2) -> None:
        """For the running loop. `close` when done."""
        self.dropped = 0
        self._fd = fd
        self._loop = asyncio.get_running_loop()
        self._waiting: list[Line] = []
        self._jobs: SimpleQueue[list[Line] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="access log", daemon=True)
        self._thread.start()

    def add(self, line: Line) -> None:
        if not self._waiting:
            self._loop.call_later(FLUSH_S, self._flush)
        self._waiting.append(line)

    async def close(self) -> None:
        """What waits is written, if it is taken within a second."""
        self._flush()
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join, 1.0)

    def _flush(self) -> None:
        lines, self._waiting = self._waiting, []
        if self._jobs.qsize() >= MOST:
            self.dropped += len(lines)
        elif lines:
            self._jobs.put(lines)

    def _write(self) -> None:
        encode, at = msgspec.json.Encoder().encode, Instants().text
        while (lines := self._jobs.get()) is not None:
            block = b""
            for line in lines:
                line.at = at(line.at_ms)
                text = encode(line) + b"\n"
                if len(block) + len(text) > ATOMIC:
                    self._out(block)
                    block = b""
                block += text
            self._out(block)

    def _out(self, block: bytes) -> None:
        try:
            while block:
                block = block[os.write(self._fd, block) :]
        except OSError:  # whoever read it has gone: calls go on
            self.dropped += block.count(b"\n")
