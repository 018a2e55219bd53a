"""Runs `http/*.txt` against the server, each case delivered whole and octet by octet.

A case is a block of lines, parted from the next by an empty line:

    case NAME
    only whole                    or `only split`: where the way of delivery matters
    > octets                      joined; \\r \\n \\t \\0 \\\\ \\xNN; {a*300} repeats
    < 200 POST /path?query body   an answer; what follows the status is how the request was understood
    + name: value                 a field that this answer has
    - name                        a field that this answer lacks
    closes | stays | waits        closed; ready for another request; in the middle of one
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import uvloop

from entrepot.http1.connection import Connection
from entrepot.http1.server import Exchange, Server
from entrepot.resources.model import Limits

LIMITS = Limits(request_line_bytes=256, header_bytes=1024, header_count=10, body_bytes=1000)
FILES = sorted((Path(__file__).parent / "http").glob("*.txt"))
PROBE = b"GET /probe HTTP/1.1\r\nhost: a\r\n\r\n"


@dataclass
class Answer:
    status: int
    understood: str = ""
    has: list[str] = field(default_factory=list)
    lacks: list[str] = field(default_factory=list)


@dataclass
class Case:
    name: str
    only: str = ""
    octets: bytes = b""
    answers: list[Answer] = field(default_factory=list)
    end: str = ""


def _unescape(text: str) -> bytes:
    text = re.sub(r"\{(.)\*(\d+)\}", lambda m: m[1] * int(m[2]), text)
    escapes = {"r": "\r", "n": "\n", "t": "\t", "0": "\0", "\\": "\\"}
    return re.sub(r"\\(?:x([0-9a-f]{2})|(.))", lambda m: chr(int(m[1], 16)) if m[1] else escapes[m[2]], text).encode(
        "latin-1"
    )


def _parse(block: str) -> Case:
    case = Case("")
    for line in block.splitlines():
        word, _, rest = line.partition(" ")
        match word:
            case "case":
                case.name = rest
            case "only":
                case.only = rest
            case ">":
                case.octets += _unescape(rest)
            case "<":
                status, _, understood = rest.partition(" ")
                case.answers.append(Answer(int(status), understood))
            case "+":
                case.answers[-1].has.append(rest)
            case "-":
                case.answers[-1].lacks.append(rest)
            case "closes" | "stays" | "waits":
                case.end = word
            case _:
                raise ValueError(f"cannot read `{line}`")
    if not (case.name and case.octets and case.end):
        raise ValueError(f"incomplete case: {block}")
    return case


def _cases() -> list[object]:
    found = []
    for path in FILES:
        text = "\n".join(line for line in path.read_text().splitlines() if not line.startswith("#"))
        for block in re.split(r"\n{2,}", text.strip()):
            case = _parse(block)
            found += [
                pytest.param(
                    case, split, id=f"{path.stem}-{case.name}-{'split' if split else 'whole'}".replace(" ", "_")
                )
                for split in (False, True)
                if case.only in ("", "split" if split else "whole")
            ]
    return found


async def _handle(exchange: Exchange) -> None:
    request = exchange.request
    await asyncio.sleep(0)
    target = request.path + ("?" + request.query if request.query else "")
    body = f"{request.method} {target} ".encode() + request.body
    if request.path == "/stream":
        exchange.start(200, b"")
        exchange.write(body[:3])
        exchange.write(body[3:])
        exchange.finish()
    elif request.path == "/empty":
        exchange.respond(204, b"", b"")
    else:
        exchange.respond(200, b"", body)


def _render_error(path: str, status: int, message: str) -> tuple[bytes, bytes]:
    return b"x-path: %b\r\n" % path.encode(), message.encode()


class Client:
    """Reads answers off a socket, as strictly as they are to be written."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.data = b""
        self.ended = False

    async def more(self) -> None:
        data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.sock, 65536), 5)
        self.data += data
        self.ended = not data

    async def _upto(self, mark: bytes) -> bytes:
        while mark not in self.data:
            assert not self.ended, f"closed, after {self.data!r}"
            await self.more()
        part, _, self.data = self.data.partition(mark)
        return part

    async def _exactly(self, size: int) -> bytes:
        while len(self.data) < size:
            assert not self.ended, f"closed, after {self.data!r}"
            await self.more()
        part, self.data = self.data[:size], self.data[size:]
        return part

    async def answer(self, bodiless: bool) -> tuple[int, dict[str, str], bytes]:
        start, *lines = (await self._upto(b"\r\n\r\n")).decode().split("\r\n")
        match = re.fullmatch(r"HTTP/1\.1 (\d\d\d) [\w -]*", start)
        assert match, start
        status = int(match[1])
        headers = dict(line.split(": ", 1) for line in lines)
        assert len(headers) == len(lines)
        if status == 100:
            return status, headers, b""
        assert "date" in headers
        if bodiless or status == 204:
            return status, headers, b""
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(await self._upto(b"\r\n"), 16):
                body += await self._exactly(size)
                assert await self._exactly(2) == b"\r\n"
            assert await self._exactly(2) == b"\r\n"
            return status, headers, body
        if "content-length" in headers:
            return status, headers, await self._exactly(int(headers["content-length"]))
        while not self.ended:
            await self.more()
        return status, headers, await self._exactly(len(self.data))


async def _run(case: Case, split: bool) -> None:
    loop = asyncio.get_running_loop()
    server = Server(_handle, _render_error, LIMITS)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        await loop.connect_accepted_socket(lambda: Connection(server, False), theirs)
        with contextlib.suppress(BrokenPipeError):  # what is sent after the end does not matter
            for piece in [bytes([octet]) for octet in case.octets] if split else [case.octets]:
                await loop.sock_sendall(ours, piece)
                await asyncio.sleep(0)
        client = Client(ours)
        for answer in case.answers:
            status, headers, body = await client.answer(answer.understood.startswith("HEAD"))
            assert status == answer.status, body
            for line in answer.has:
                name, _, value = line.partition(": ")
                assert headers.get(name) == value
            assert not set(answer.lacks) & set(headers)
            if status == 200 and not answer.understood.startswith("HEAD"):
                assert body.rstrip(b" ") == _unescape(answer.understood)
        if case.end == "closes":
            while not client.ended:
                await client.more()
        elif case.end == "stays":
            await loop.sock_sendall(ours, PROBE)
            assert (await client.answer(False))[2] == b"GET /probe "
        else:
            for _ in range(5):
                await asyncio.sleep(0)
            with pytest.raises(BlockingIOError):
                ours.recv(1)
        assert client.data == b""
        await server.drain(0)


@pytest.mark.parametrize(("case", "split"), _cases())
def test_case(case: Case, split: bool) -> None:
    uvloop.run(_run(case, split))
