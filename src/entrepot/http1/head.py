"""The head of a request: from its raw octets to what it asks for and how its body is framed. Strict, no I/O.

A head must satisfy llhttp and the grammar below, which is stricter: llhttp alone lets ambiguous messages pass.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NoReturn, TypeVar

import httptools

from entrepot.http1.message import Request

if TYPE_CHECKING:
    from entrepot.http1.message import Headers
    from entrepot.resources.model import Limits

CHUNKED: Final = -1
"""The body length of a request that comes in chunks."""

_START: Final = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) (/[\x21\x22\x24-\x3e\x40-\x7e]*+)(?:\?([\x21\x22\x24-\x7e]*+))? HTTP/1\.([01])"
)
_VERSION: Final = re.compile(rb".* HTTP/([0-9]\.[0-9])")
# RFC 9112 §5: no space before the colon, no folded lines; RFC 9110 §5.5: visible octets, spaces and tabs.
FIELD: Final = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[\t ]*+((?:[\x21-\x7e\x80-\xff]+(?:[\t ]+[\x21-\x7e\x80-\xff]+)*)?)[\t ]*+"
)
_HOST: Final = re.compile(r"[A-Za-z0-9\-._~%!$&'()*+;=\[\]:]*")
_BREAK: Final = re.compile(rb"[\r\n]")
_BARE: Final = re.compile(rb"(?<!\r)\n|\r(?=[^\n])")

_CREDENTIALS: Final = {
    name: name.decode().lower()
    for name in (b"Authorization", b"authorization", b"Api-Key", b"api-key", b"X-Api-Key", b"x-api-key")
}
_REMEMBERED_LINES: Final = 1_024
_REMEMBERED_BYTES: Final = 256

_Meaning = TypeVar("_Meaning")
_Start = tuple[str, str, str, bool]
"""Method, path, query, and whether it is HTTP/1.0."""


class RequestError(Exception):
    """A request that is answered with `status` and whose connection is then closed."""

    def __init__(self, status: int, message: str, path: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.path = path
        """Empty when the request line is what could not be read."""


class Incoming(Request):
    """A request whose head has been read, with what that says about its body and the connection."""

    __slots__ = ("expects", "http10", "length", "persistent")

    def __init__(self, start: _Start, headers: Headers, peer: str, secure: bool) -> None:
        self.method, self.path, self.query, self.http10 = start
        self.headers = headers
        self.body = b""
        self.peer = peer
        self.secure = secure
        self.length = 0
        """Octets of the body, or `CHUNKED`."""
        self.persistent = not self.http10
        """The client wants to go on using the connection."""
        self.expects = False
        """The client waits for `100 Continue`."""


class _Silent:
    """Has none of the callbacks: llhttp is asked for its verdict only."""

    __slots__ = ()


_SILENT: Final = _Silent()


class HeadParser:
    """Parses heads within the given limits.

    Clients repeat most of their lines from call to call, so a bounded number of short lines is remembered in parsed
    form. What a line means does not depend on the lines around it, so nothing can leak from one request to another.
    """

    __slots__ = ("_body_bytes", "_fields", "_header_bytes", "_header_count", "_line_bytes", "_starts")

    def __init__(self, limits: Limits) -> None:
        self._line_bytes = min(limits.request_line_bytes, limits.header_bytes)
        self._header_bytes = limits.header_bytes
        self._header_count = limits.header_count
        self._body_bytes = limits.body_bytes
        self._starts: dict[bytes, _Start] = {}
        self._fields: dict[bytes, tuple[str, str]] = {}

    def parse(self, block: bytes, peer: str, secure: bool) -> Incoming:
        """`block` ends with the first empty line of the input. Raises `RequestError`."""
        lines = block.split(b"\r\n")
        try:
            if len(block) > self._line_bytes:
                self.check_part(block)
            return self._read(block, lines, peer, secure)
        except RequestError as refusal:
            self.check_part(block)
            if block.startswith(b"\r\n") and len(lines) > 3:  # RFC 9112 §2.2: one empty line before a request
                return self.parse(block[2:], peer, secure)
            refusal.path = _path(block)
            raise

    def _read(self, block: bytes, lines: list[bytes], peer: str, secure: bool) -> Incoming:
        count = len(lines) - 3
        if count > self._header_count:
            raise RequestError(431, f"more than {self._header_count} header fields")
        start, pairs, fields = self._starts.get(lines[0]), [], self._fields
        for line in lines[1:-2]:
            pair = fields.get(line)
            if pair is None:
                pair = _read_credential(line)
                if pair is None:
                    break
                remember(fields, line, pair)
            pairs.append(pair)
        if start is None or len(pairs) != count:  # not by a KeyError: compiled, raising one costs as much as all this
            start, pairs = self._learn(block, lines)
        headers = dict(pairs)
        if len(headers) != count:
            headers = _join(pairs)
        request = Incoming(start, headers, peer, secure)
        _frame(request)
        if request.length > self._body_bytes:
            raise RequestError(413, f"body larger than {self._body_bytes} bytes")
        return request

    def _learn(self, block: bytes, lines: list[bytes]) -> tuple[_Start, list[tuple[str, str]]]:
        """INVARIANT: a line is remembered only from a head that llhttp accepted, or where it could not but accept it.

        Heads made of remembered lines alone are not shown to it again: only the combination could be wrong, and the
        rules of `_frame` are stricter about that. Nor are credentials in their plain form, of which there may be as
        many as clients.
        """
        start, fields, pairs = self._starts.get(lines[0]) or _read_start(lines[0]), self._fields, []
        for line in lines[1:-2]:
            pair = fields.get(line)
            pairs.append(_read_field(line) if pair is None else pair)
        try:
            httptools.HttpRequestParser(_SILENT).feed_data(block)
        except httptools.HttpParserUpgrade:
            pass  # RFC 9110 §7.8: a server may ignore the offer to change the protocol
        except httptools.HttpParserError as error:
            raise RequestError(400, "malformed request") from error
        remember(self._starts, lines[0], start)
        for line, pair in zip(lines[1:], pairs, strict=False):
            if line not in fields:
                remember(fields, line, pair)
        return start, pairs

    def check_part(self, part: bytes | bytearray, seen: int = 0) -> None:
        """Refuses a head, complete or not, that cannot become acceptable; its first `seen` octets were checked before.

        INVARIANT: the first offending octet decides, so the answer does not depend on how the octets were split.
        """
        if seen <= self._line_bytes:
            line = _BREAK.search(part)
            if (line.start() if line is not None else len(part)) > self._line_bytes:
                raise RequestError(414, f"request line longer than {self._line_bytes} bytes")
        bare = _BARE.search(part, max(seen - 1, 0))
        if bare is not None and bare.start() < self._header_bytes:
            raise RequestError(400, "bare carriage return or line feed in the header section", _path(part))
        if len(part) > self._header_bytes:
            raise RequestError(431, f"header section larger than {self._header_bytes} bytes", _path(part))


def _path(part: bytes | bytearray) -> str:
    try:
        return _read_start(bytes(part.partition(b"\r\n")[0]))[1]
    except RequestError:
        return ""


def _read_start(line: bytes) -> _Start:
    match = _START.fullmatch(line)
    if match is None or match[1] == b"CONNECT":
        _refuse_start(line)
    method, path, query, minor = match.groups(b"")
    return method.decode("ascii"), path.decode("ascii"), query.decode("ascii"), minor == b"0"


def _read_field(line: bytes) -> tuple[str, str]:
    match = FIELD.fullmatch(line)
    if match is None:
        raise RequestError(400, "invalid header field")
    name, value = match[1].decode("ascii").lower(), match[2].decode("latin-1")
    if name == "host" and _HOST.fullmatch(value) is None:
        raise RequestError(400, "invalid host header")
    return name, value


def _read_credential(line: bytes) -> tuple[str, str] | None:
    """A key or token as SDKs send it: visible ASCII and spaces within, which nobody reads otherwise."""
    name, _, value = line.partition(b": ")
    known = _CREDENTIALS.get(name)
    if known is None or not value.isascii():
        return None
    text = value.decode("ascii")
    return (known, text) if text.isprintable() and text and text[0] != " " and text[-1] != " " else None


def remember(memory: dict[bytes, _Meaning], line: bytes, meaning: _Meaning) -> None:
    """What a line means, for the next that has it; a bounded number of short ones."""
    if len(line) <= _REMEMBERED_BYTES:
        if len(memory) >= _REMEMBERED_LINES:
            memory.clear()
        memory[line] = meaning


def _refuse_start(line: bytes) -> NoReturn:
    version = _VERSION.fullmatch(line)
    if version is not None and version[1] not in (b"1.0", b"1.1"):
        raise RequestError(505, "only HTTP/1.1 and HTTP/1.0 are spoken here")
    parts = line.split(b" ")
    if len(parts) == 3 and (not parts[1].startswith(b"/") or parts[0] == b"CONNECT"):
        raise RequestError(400, "the request target must be a path")
    raise RequestError(400, "invalid request line")


def _join(pairs: list[tuple[str, str]]) -> Headers:
    headers: Headers = {}
    for name, value in pairs:
        if name not in headers:
            headers[name] = value
        elif name == "host":
            raise RequestError(400, "more than one host header")
        else:  # a repeated content-length or transfer-encoding becomes a list here, which is refused as a value
            headers[name] += ", " + value
    return headers


def _frame(request: Incoming) -> None:
    """RFC 9112 §6.3, without its leniencies: what two readers could understand differently is refused."""
    headers = request.headers
    length = headers.get("content-length")
    coding = headers.get("transfer-encoding")
    if coding is not None:
        if length is not None:
            raise RequestError(400, "both content-length and transfer-encoding")
        if request.http10 or coding.lower() != "chunked":
            raise RequestError(400, "the only transfer coding accepted is a single `chunked`, in HTTP/1.1")
        request.length = CHUNKED
    elif length is not None:
        if not (length.isdigit() and length.isascii() and len(length) <= 18):
            raise RequestError(400, "invalid content-length")
        request.length = int(length)
    if not request.http10 and "host" not in headers:
        raise RequestError(400, "no host header")
    connection = headers.get("connection")
    if connection is not None:
        options = {option.strip() for option in connection.lower().split(",")}
        request.persistent = "close" not in options and (not request.http10 or "keep-alive" in options)
    expectation = headers.get("expect")
    if expectation is not None and not request.http10:
        if expectation.lower() != "100-continue":
            raise RequestError(417, "the only expectation that can be met is `100-continue`")
        request.expects = True
