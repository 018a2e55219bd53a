"""The chunked transfer coding of request bodies (RFC 9112 §7.1), strict and bounded. No I/O."""

from __future__ import annotations

import re
from typing import Final

from entrepot.http1.head import FIELD, RequestError

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_SIZE: Final = re.compile(
    rb"([0-9A-Fa-f]{1,15})((?:;" + _TOKEN + rb"(?:=(?:" + _TOKEN + rb'|"[\t\x20\x21\x23-\x5b\x5d-\x7e]*"))?)*)\r'
)
_LINE_BYTES: Final = 256
_EXTENSION_BYTES: Final = 4_096
_TRAILER_BYTES: Final = 8_192


class ChunkedBody:
    """Takes the octets after a head until the body is complete. Extensions and trailers are checked and dropped.

    What is refused, and how, does not depend on how the octets were split.
    """

    __slots__ = ("_body", "_data_left", "_extension_left", "_in_trailers", "_limit", "_path", "_trailer_left")

    def __init__(self, limit: int, path: str) -> None:
        self._body = bytearray()
        self._limit = limit
        self._path = path
        self._data_left = 0
        """Octets of the current chunk still to come, its CRLF included; 0 between chunks."""
        self._in_trailers = False
        self._extension_left = _EXTENSION_BYTES
        self._trailer_left = _TRAILER_BYTES

    @property
    def body(self) -> bytes:
        return bytes(self._body)

    def feed(self, data: bytes | bytearray) -> tuple[bool, int]:
        """Whether the body is complete, and how many octets of `data` are used up; the rest is to be given again.

        Raises `RequestError`: 400 for what is not chunks, 413 for a body over the limit, 431 for too many trailers.
        """
        at = 0
        end = len(data)
        while at < end:
            if self._data_left:
                at = self._take_data(data, at)
                if self._data_left:
                    break
                continue
            line_end = data.find(b"\n", at)
            if line_end < 0:
                self._check_unfinished(end - at)
                break
            if self._in_trailers:
                if self._take_trailer(data, at, line_end):
                    return True, line_end + 1
            else:
                self._take_size(data, at, line_end)
            at = line_end + 1
        return False, at

    def _take_data(self, data: bytes | bytearray, at: int) -> int:
        left = self._data_left - 2
        if left > 0:
            piece = data[at : at + left]
            self._body += piece
            self._data_left -= len(piece)
            at += len(piece)
            if len(piece) < left:
                return at
        for expected in (13, 10)[2 - self._data_left :]:
            if at == len(data):
                break
            if data[at] != expected:
                raise RequestError(400, "a chunk does not end where its size says", self._path)
            at += 1
            self._data_left -= 1
        return at

    def _take_size(self, data: bytes | bytearray, at: int, line_end: int) -> None:
        match = _SIZE.fullmatch(data, at, line_end) if line_end - at < _LINE_BYTES else None
        if match is None:
            raise RequestError(400, "invalid chunk size line", self._path)
        self._extension_left -= len(match[2])
        if self._extension_left < 0:
            raise RequestError(400, "too many chunk extensions", self._path)
        size = int(match[1], 16)
        if size > self._limit - len(self._body):
            raise RequestError(413, f"body larger than {self._limit} bytes", self._path)
        if size:
            self._data_left = size + 2
        else:
            self._in_trailers = True

    def _take_trailer(self, data: bytes | bytearray, at: int, line_end: int) -> bool:
        self._trailer_left -= line_end + 1 - at
        if self._trailer_left < 0:
            raise RequestError(431, f"trailers larger than {_TRAILER_BYTES} bytes", self._path)
        if data[line_end - 1 : line_end] != b"\r" or line_end == at:
            raise RequestError(400, "bare line feed in the trailers", self._path)
        if line_end == at + 1:
            return True
        if FIELD.fullmatch(data, at, line_end - 1) is None:
            raise RequestError(400, "invalid trailer field", self._path)
        return False

    def _check_unfinished(self, size: int) -> None:
        if self._in_trailers:
            if size > self._trailer_left:
                raise RequestError(431, f"trailers larger than {_TRAILER_BYTES} bytes", self._path)
        elif size >= _LINE_BYTES:
            raise RequestError(400, "invalid chunk size line", self._path)
