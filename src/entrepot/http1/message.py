"""What both sides of the engine share: the parsed request, header fields, and how a header block is rendered safely.

Field values are text in ISO 8859-1, so every octet survives a round trip (RFC 9110 §5.5).
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

Headers = dict[str, str]
"""Lower-case names. Field lines of one name are joined with `, ` in their order (RFC 9110 §5.3)."""

# RFC 9110 §5.1, §5.5: a token, a colon, one space, visible octets, spaces and tabs.
_BLOCK: Final = re.compile(r"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+: [\t\x20-\x7e\x80-\xff]*\r\n)*")
TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")

STATUS_LINES: Final[dict[int, bytes]] = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}


class Request:
    """One request, complete with its body."""

    __slots__ = ("body", "headers", "method", "path", "peer", "query", "secure")

    def __init__(  # noqa: PLR0913, PLR0917
        self,
        method: str,
        path: str,
        query: str,
        headers: Headers,
        body: bytes,
        peer: str,
        secure: bool,
    ) -> None:
        self.method = method
        self.path = path
        """As sent, percent-encoded, without the query."""
        self.query = query
        self.headers = headers
        self.body = body
        self.peer = peer
        """IP literal of the socket's peer, without port and scope id."""
        self.secure = secure
        """The request came over TLS."""


def render_headers(pairs: Iterable[tuple[str, str]]) -> bytes:
    """Header lines, each ending in CRLF. Raises ValueError for anything that could begin another line or field.

    The error does not repeat the value: it may be a credential.
    """
    lines = [f"{name}: {value}\r\n" for name, value in pairs]
    text = "".join(lines)
    # INVARIANT: one line per pair; a CRLF inside a value would match the block's form as a further field.
    if text.count("\n") != len(lines) or _BLOCK.fullmatch(text) is None:
        for name, line in zip((line.partition(":")[0] for line in lines), lines, strict=True):
            if line.count("\n") != 1 or _BLOCK.fullmatch(line) is None:
                raise ValueError(f"header {name[:64]!r} has an invalid name or a character that a header cannot carry")
    return text.encode("latin-1")


def status_line(status: int) -> bytes:
    """The status line of an HTTP/1.1 answer with its CRLF. An unregistered status has an empty reason phrase."""
    return STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
