"""Answers that come whole in one read, as short ones do, read in one go. All others are llhttp's (`http1.upstream`)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from entrepot.http1.head import FIELD, remember

if TYPE_CHECKING:
    from entrepot.http1.message import Headers
    from entrepot.http1.response import Response
    from entrepot.http1.upstream import Names

_STATUS: Final = re.compile(rb"HTTP/1\.1 ([2-5][0-9]{2}) [\t\x20-\x7e\x80-\xff]*+")
_BODYLESS: Final = (204, 304)
_HEAD_BYTES: Final = 16_384

_Field = tuple[str | None, str]
"""Name and value; without a name for a field that nobody wants."""


class WholeAnswers:
    """Reads them for the connections of a pool. Upstreams repeat most of their lines, so short ones are remembered.

    INVARIANT: what is read here has one meaning only: final, in HTTP/1.1, each field once and in the strict grammar, of
    just the length that it announces, over a connection that stays. Anything else is left to llhttp, which judges it.
    """

    __slots__ = ("_fields", "_names", "_statuses")

    def __init__(self, names: Names) -> None:
        self._names = names
        self._statuses: dict[bytes, int] = {}
        self._fields: dict[bytes, _Field] = {}

    def read(self, data: bytes, response: Response) -> int:
        """Where the body begins; `response` has status and headers then. 0 for what is not such an answer."""
        end = data.find(b"\r\n\r\n", 0, _HEAD_BYTES)
        if end < 0:
            return 0
        lines = data[:end].split(b"\r\n")
        status = self._statuses.get(lines[0]) or self._status(lines[0])
        if status == 0:
            return 0
        headers: Headers = {}
        fields = self._fields
        for line in lines[1:]:
            field = fields.get(line) or self._field(line)
            if field is None:
                return 0
            name, value = field
            if name is not None:
                if name in headers:
                    return 0
                headers[name] = value
        length = headers.get("content-length", "")
        if not (length.isdecimal() and length.isascii() and len(length) < 10 and int(length) == len(data) - end - 4):
            return 0
        if "transfer-encoding" in headers or headers.get("connection", "keep-alive") != "keep-alive":
            return 0
        response.status, response.headers = status, headers
        return end + 4

    def _status(self, line: bytes) -> int:
        """0 for what is no status line, or one of an answer without a body."""
        found = _STATUS.fullmatch(line)
        status = 0 if found is None else int(found[1])
        if status in _BODYLESS:
            return 0
        if status:
            remember(self._statuses, line, status)
        return status

    def _field(self, line: bytes) -> _Field | None:
        """None for what is no field."""
        found = FIELD.fullmatch(line)
        if found is None:
            return None
        field = self._names[found[1]], found[2].decode("latin-1")
        remember(self._fields, line, field)
        return field
