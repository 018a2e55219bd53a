"""Whatever comes, the reading of it is a function of the octets: not of how they were split or of what came before."""

from __future__ import annotations

import itertools
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entrepot.http1.chunked import ChunkedBody
from entrepot.http1.head import CHUNKED, HeadParser, Incoming, RequestError
from entrepot.resources.model import Limits

LIMITS = Limits(request_line_bytes=60, header_bytes=200, header_count=6, body_bytes=64)
SEEDS = (
    b"GET /a?b HTTP/1.1\r\nHost: a\r\nX-A: b\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\nGET",
    b"\r\nPUT / HTTP/1.0\r\nConnection: keep-alive\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
)
PIECES = [b"\r", b"\n", b"\r\n", b"\r\n\r\n", b" ", b"\t", b":", b"\0", b"0", b"Host: b", b"Content-Length: 1", b"\xff"]


@st.composite
def _messages(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        cut = draw(st.integers(0, 3))
        data[at : at + cut] = draw(st.sampled_from(PIECES) | st.binary(max_size=3) | st.just(b"y" * 150))
    return bytes(data)


def _read(pieces: list[bytes], heads: HeadParser) -> tuple[object, ...]:
    """What a connection does with octets as they come, without the connection."""
    buffer = bytearray()
    request: Incoming | None = None
    chunked: ChunkedBody | None = None
    for piece in pieces:
        buffer += piece
        try:
            if request is None:
                end = buffer.find(b"\r\n\r\n") + 4
                if end == 3:
                    heads.check_part(buffer, max(len(buffer) - len(piece) - 3, 0))
                    continue
                request = heads.parse(bytes(buffer[:end]), "::1", False)
                del buffer[:end]
                if request.length == CHUNKED:
                    chunked = ChunkedBody(LIMITS.body_bytes, request.path)
            if chunked is not None:
                complete, used = chunked.feed(buffer)
                del buffer[:used]
                if complete:
                    request.length = len(chunked.body)
                    buffer[:0] = chunked.body
                    chunked = None
        except RequestError as refusal:
            return (refusal.status, refusal.message, refusal.path)
    if request is None or chunked is not None or len(buffer) < request.length:
        return ("waits", None if request is None else request.path)
    return (
        request.method,
        request.path,
        request.query,
        request.headers,
        request.persistent,
        request.expects,
        bytes(buffer),
    )


@settings(max_examples=300, deadline=None)
@given(_messages(), st.lists(st.integers(0, 300), max_size=6))
def test_how_octets_are_split_changes_nothing(data: bytes, cuts: list[int]) -> None:
    whole = _read([data], HeadParser(LIMITS))
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    assert _read([data[a:b] for a, b in itertools.pairwise(bounds)], HeadParser(LIMITS)) == whole
    assert _read([data[at : at + 1] for at in range(len(data))], HeadParser(LIMITS)) == whole


@settings(max_examples=100, deadline=None)
@given(st.lists(_messages(), min_size=2, max_size=5))
def test_what_was_remembered_changes_nothing(messages: list[bytes]) -> None:
    heads = HeadParser(LIMITS)
    for data in (*messages, *messages):
        assert _read([data], heads) == _read([data], HeadParser(LIMITS))


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([b"Authorization", b"authorization", b"api-key", b"X-Api-Key", b"API-KEY"]),
    st.sampled_from([b": ", b":", b":  ", b":\t", b" : ", b"; "]),
    st.lists(
        st.sampled_from([b"k", b"Bearer", b" ", b"  ", b"\t", b"\0", b"\n", b"\r", b"\x7f", b"\x80", b"\xa0", b": "]),
        max_size=6,
    ),
)
def test_a_credential_is_read_as_any_other_field(name: bytes, between: bytes, value: list[bytes]) -> None:
    """Once the other lines are known, llhttp is not asked about it: it would have said the same."""
    heads = HeadParser(LIMITS)
    form = b"POST /v1/x HTTP/1.1\r\nhost: a\r\n%b\r\ncontent-length: 0\r\n\r\n"
    assert _read([form % b"api-key: k"], heads)[3] == {"host": "a", "api-key": "k", "content-length": "0"}
    line = between + b"".join(value)
    expected = _read([form % (b"other" + line)], HeadParser(LIMITS))
    if len(expected) > 3:
        named = {"other": name.decode().lower()}
        headers = {named.get(each, each): text for each, text in dict(expected[3]).items()}  # type: ignore[call-overload]
        expected = (*expected[:3], headers, *expected[4:])
    assert _read([form % (name + line)], heads) == expected


@given(st.lists(st.binary(min_size=1, max_size=20), max_size=5), st.lists(st.integers(0, 200), max_size=6))
def test_chunks_give_back_what_went_in(parts: list[bytes], cuts: list[int]) -> None:
    data = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\nrest"
    chunked = ChunkedBody(100, "/")
    buffer, at = b"", 0
    complete = False
    for cut in [*sorted(min(cut, len(data) - 4) for cut in cuts), len(data)]:
        buffer, at = buffer + data[at:cut], cut
        if not complete:
            complete, used = chunked.feed(buffer)
            buffer = buffer[used:]
    assert (complete, chunked.body, buffer) == (True, b"".join(parts), b"rest")


def test_memory_for_remembered_lines_is_bounded() -> None:
    heads = HeadParser(Limits())
    tracemalloc.start()
    try:
        for n in range(5_000):
            heads.parse(b"GET /%d HTTP/1.1\r\nhost: a\r\nx-%d: %b\r\n\r\n" % (n, n, b"v" * 200), "", False)
        assert tracemalloc.get_traced_memory()[0] < 1_500_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [1_000, 8_000])
def test_a_hostile_value_takes_linear_time(size: int) -> None:
    # Possessive: a backtracking grammar would not come back from this one.
    line = b"x: " + b"a \t" * size + b"\0"
    with pytest.raises(RequestError):
        HeadParser(Limits(header_bytes=100_000)).parse(b"GET / HTTP/1.1\r\nhost: a\r\n" + line + b"\r\n\r\n", "", False)
