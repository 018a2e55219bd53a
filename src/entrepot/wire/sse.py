"""Event streams of chat and completions: bytes of an upstream in, bytes for the strictest client out.

What leaves is `data: ` and one line of JSON, LF, an empty line; nothing else. A block that is already so leaves as the
same object. Bytes are never decoded to text, so a character may be split anywhere (HTML Living Standard §9.2.6).
"""

from __future__ import annotations

import msgspec

from entrepot.errors import Code, Error
from entrepot.wire.reported import Usage
from entrepot.wire.usage import usage_of_chunk

MAX_EVENT_BYTES = 8 * 1024 * 1024
"""An event that has not ended after so many bytes is an upstream fault."""

_BOM = b"\xef\xbb\xbf"
_DONE = b"[DONE]"


class _Failed(msgspec.Struct):
    error: msgspec.Raw = msgspec.Raw(b"null")


_failed = msgspec.json.Decoder(_Failed)
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Relay:
    """One stream's state. Feed it what arrives, send on what it returns.

    `usage` is the last usage seen, `events` counts relayed data events without `[DONE]`, `done` and `error` say whether
    `[DONE]` and an error object went by. A chunk that holds only usage is kept from the client unless `keep_usage`.
    Nothing is relayed after `[DONE]`.
    """

    __slots__ = (
        "_at_boundary",
        "_held",
        "_keep_usage",
        "_searched",
        "_skip_lf",
        "_started",
        "done",
        "error",
        "events",
        "usage",
    )

    def __init__(self, *, keep_usage: bool) -> None:
        self._keep_usage = keep_usage
        self._at_boundary = True
        self._held = bytearray()
        self._searched = 0
        self._skip_lf = False
        self._started = False
        self.usage: Usage | None = None
        self.events = 0
        self.done = False
        self.error = False

    def feed(self, block: bytes) -> bytes:
        """What to send on now, empty while an event is incomplete. Raises `UPSTREAM_FAULT` on an endless event."""
        # A clean block is `data: {…` LF LF, repeated. INVARIANT: separators and the final pair account for every line
        # feed, so equality leaves no room for any other line. `[DONE]` and empty data do not begin with a brace.
        # Chunks of a stream that was asked for usage carry `"usage":null`; a quote inside a JSON string is escaped, so
        # the key as written here is never part of a text. `count`, for `in` on bytes raises and swallows a TypeError.
        count = block.count
        if self._at_boundary and block.endswith(b"}\n\n") and block.startswith(b"data: {"):
            line_feeds = count(b"\n")
            if (
                (line_feeds == 2 or line_feeds == 2 * count(b"\n\ndata: {") + 2)
                and not count(b"\r")
                and not count(b'"error"')
                and (not (usages := count(b'"usage"')) or usages == count(b'"usage":null') + count(b'"usage": null'))
            ):
                self.events += line_feeds >> 1
                return block
        return self._feed_any(block)

    def finish(self) -> bytes:
        """The upstream has ended: what is left, if it is a whole event that only lacks its empty line."""
        if not self._held or self.done:
            return b""
        data = _data(bytes(self._held).rstrip(b"\n"))
        self._held.clear()
        if data is None or not (data == _DONE or _is_object(data)):
            return b""
        return self._relay(data)

    def _feed_any(self, block: bytes) -> bytes:
        if self.done:
            return b""
        held = self._held
        held += self._line_feeds(block)
        if not self._started and not self._skip_bom():
            return b""
        end = held.rfind(b"\n\n", self._searched)
        if end < 0:
            if len(held) > MAX_EVENT_BYTES:
                raise Error(Code.UPSTREAM_FAULT, f"the upstream sent an event of more than {MAX_EVENT_BYTES} bytes")
            self._searched = max(0, len(held) - 1)
            self._at_boundary = not held and not self._skip_lf
            return b""
        whole = bytes(held[: end + 2])
        del held[: end + 2]
        self._searched = max(0, len(held) - 1)
        self._at_boundary = not held and not self._skip_lf
        return b"".join([self._relay(data) for event in whole.split(b"\n\n") if (data := _data(event))])

    def _line_feeds(self, block: bytes) -> bytes:
        # CR, LF and CRLF all end a line; a CR at a block's end may be half of a CRLF.
        if self._skip_lf and block:
            self._skip_lf = False
            block = block.removeprefix(b"\n")
        if b"\r" in block:
            self._skip_lf = block.endswith(b"\r")
            block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return block

    def _skip_bom(self) -> bool:
        held = self._held
        if len(held) < len(_BOM) and _BOM.startswith(held):
            self._at_boundary = False
            return False
        self._started = True
        if held.startswith(_BOM):
            del held[: len(_BOM)]
        return True

    def _relay(self, data: bytes) -> bytes:
        if self.done:
            return b""
        if data == _DONE:
            self.done = True
            self._at_boundary = False
            self._held.clear()
            return b"data: [DONE]\n\n"
        if b'"usage"' in data:
            usage, alone = usage_of_chunk(data)
            self.usage = usage or self.usage
            if alone and not self._keep_usage:
                return b""
        if b'"error"' in data and _is_failure(data):
            self.error = True
        self.events += 1
        return b"data: %b\n\n" % data


def error_event(body: bytes) -> bytes:
    """A JSON error body as an event: what a client's SDK raises from when the stream cannot go on."""
    return b"data: %b\n\n" % b" ".join(body.split(b"\n"))


def _data(event: bytes) -> bytes | None:
    """The data of one event on one line, `None` if it has none. A line feed between JSON tokens may be a space."""
    if event.startswith(b"data: ") and b"\n" not in event:
        return event[6:].strip(b" \t")
    lines = [
        line[5:].strip(b" \t") if line != b"data" else b""
        for line in event.split(b"\n")
        if line.startswith(b"data:") or line == b"data"
    ]
    return b" ".join(lines).strip(b" ") if lines else None


def _is_failure(data: bytes) -> bool:
    try:
        error = _failed.decode(data).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return bytes(error) != b"null"


def _is_object(data: bytes) -> bool:
    try:
        _object.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True
