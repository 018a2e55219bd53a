"""Answers, byte for byte, into one connection: every split gives the same, every cut an answer or a fault."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entrepot.http1.client import Fault, Response
from entrepot.http1.outbox import Outbox
from entrepot.http1.upstream import BUFFER_BYTES, HEAD_BYTES, Connection, Names
from entrepot.http1.whole import WholeAnswers

CHUNKED = b"transfer-encoding: chunked\r\n"


class Wire:
    """A transport that keeps what is written and says what it was told."""

    def __init__(self) -> None:
        self.written = b""
        self.unsent = 0
        self.paused = False
        self.ended = ""

    def write(self, data: bytes) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def pause_reading(self) -> None:
        assert not self.paused
        self.paused = True

    def resume_reading(self) -> None:
        assert self.paused
        self.paused = False

    def abort(self) -> None:
        self.ended = self.ended or "abort"

    def close(self) -> None:
        self.ended = self.ended or "close"


class Owner:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.told: list[str] = []
        self.names = Names(None)
        self.whole = WholeAnswers(self.names)
        self.outbox = Outbox(loop, ())

    def free(self, _: Connection) -> None:
        self.told.append("free")

    def leave(self, _: Connection) -> None:
        self.told.append("leave")

    def lost(self, _: Connection) -> None:
        self.told.append("lost")


class Line:
    """One connection in the middle of an exchange."""

    def __init__(self, method: str = "POST") -> None:
        self.loop = asyncio.new_event_loop()
        self.wire, self.owner = Wire(), Owner(self.loop)
        self.connection = Connection(self.owner, self.loop)
        self.connection.connection_made(self.wire)  # type: ignore[arg-type]
        self.connection.without_body = method == "HEAD"
        self.response, _ = self.connection.begin(b"request", 1.0, 1.0)

    def feed(self, *blocks: bytes) -> None:
        for block in blocks:
            if block and not self.wire.ended and not self.wire.paused:
                self.connection.data_received(block)

    def end(self) -> None:
        if not self.wire.ended:
            self.connection.eof_received()
        self.connection.connection_lost(None)

    def result(self, limit: int = 1 << 30) -> tuple[int, bytes] | str:
        """Status and body, or the kind of fault; `open` if neither is decided."""
        response = self.response
        try:
            if response.status and response._connection is None:
                return response.status, finished(response.read(limit))
            if response._failure is not None:
                raise response._failure
        except Fault as fault:
            return fault.kind
        return "open"

    @property
    def kept(self) -> bool:
        return "free" in self.owner.told and not self.wire.ended


@pytest.fixture
def line() -> Any:
    lines: list[Line] = []

    def make(method: str = "POST") -> Line:
        lines.append(Line(method))
        return lines[-1]

    yield make
    for each in lines:
        each.loop.close()


def finished(coroutine: Any) -> Any:
    """The result of a coroutine that must not suspend."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise AssertionError("suspended")


def through(coroutine: Any, line: Line, data: bytes) -> None:
    coroutine.send(None)
    line.feed(data)
    coroutine.send(None)


def answer(*lines: bytes, body: bytes = b"", status: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return b"\r\n".join((status, *lines, b"", body))


LENGTH = answer(b"content-length: 5", body=b"wrong")
CHUNKED_ANSWER = answer(CHUNKED[:-2], body=b"5\r\nwrong\r\n0\r\n\r\n")
GOOD: dict[str, tuple[str, bytes, tuple[int, bytes], bool]] = {
    "length": ("POST", answer(b"Content-Length: 5", body=b"hello"), (200, b"hello"), True),
    "empty": ("POST", answer(b"content-length: 0"), (200, b""), True),
    "chunked": (
        "POST",
        answer(b"Transfer-Encoding: Chunked ", body=b"3;a=b\r\nhel\r\n2\r\nlo\r\n0\r\nX-Sum: 1\r\n\r\n"),
        (200, b"hello"),
        True,
    ),
    "204": ("POST", answer(status=b"HTTP/1.1 204 No Content"), (204, b""), True),
    "304": ("GET", answer(b"content-length: 5", status=b"HTTP/1.1 304 Not Modified"), (304, b""), True),
    "head": ("HEAD", answer(b"content-length: 5"), (200, b""), False),
    "head, no length": ("HEAD", answer(b"x: y"), (200, b""), False),
    "close": ("POST", answer(b"Connection: close", b"content-length: 2", body=b"ok"), (200, b"ok"), False),
    "1.0": ("POST", answer(b"content-length: 2", body=b"ok", status=b"HTTP/1.0 200 OK"), (200, b"ok"), False),
    "1.0 kept": (
        "POST",
        answer(b"connection: keep-alive", b"content-length: 2", body=b"ok", status=b"HTTP/1.0 200 OK"),
        (200, b"ok"),
        True,
    ),
    "interim": (
        "POST",
        answer(status=b"HTTP/1.1 100 Continue")
        + answer(b"link: x", status=b"HTTP/1.1 103 Early Hints")
        + answer(b"content-length: 2", body=b"ok", status=b"HTTP/1.1 429 Too Many"),
        (429, b"ok"),
        True,
    ),
    "no reason": ("POST", answer(b"content-length: 2", body=b"ok", status=b"HTTP/1.1 500"), (500, b"ok"), True),
    "upgrade offered": (
        "POST",
        answer(b"connection: upgrade", b"upgrade: h2c", b"content-length: 2", body=b"ok"),
        (200, b"ok"),
        True,
    ),
}
TO_EOF = answer(b"content-type: text/plain", body=b"until the end")

BAD: dict[str, bytes] = {
    "length and coding": answer(b"content-length: 5", b"transfer-encoding: chunked", body=b"0\r\n\r\n"),
    "coding and length": answer(b"transfer-encoding: chunked", b"content-length: 5", body=b"0\r\n\r\n"),
    "two lengths": answer(b"content-length: 5", b"content-length: 6", body=b"hello!"),
    "the same length twice": answer(b"content-length: 5", b"content-length: 5", body=b"hello"),
    "length list": answer(b"content-length: 5, 5", body=b"hello"),
    "signed length": answer(b"content-length: +5", body=b"hello"),
    "empty length": answer(b"content-length:", body=b"hello"),
    "huge length": answer(b"content-length: 99999999999999999999999", body=b"hello"),
    "gzip coding": answer(b"transfer-encoding: gzip", body=b"hello"),
    "gzip, chunked": answer(b"transfer-encoding: gzip, chunked", body=b"0\r\n\r\n"),
    "chunked twice": answer(b"transfer-encoding: chunked", b"transfer-encoding: chunked", body=b"0\r\n\r\n"),
    "coding in 1.0": answer(b"transfer-encoding: chunked", body=b"0\r\n\r\n", status=b"HTTP/1.0 200 OK"),
    "chunk size": answer(CHUNKED[:-2], body=b"0x5\r\nhello\r\n0\r\n\r\n"),
    "chunk end": answer(CHUNKED[:-2], body=b"5\r\nhelloworld\r\n0\r\n\r\n"),
    "not http": b"SSH-2.0-OpenSSH_9.6\r\n",
    "rtsp": answer(b"content-length: 0", status=b"RTSP/1.0 200 OK"),
    "a request": b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
    "tls record": b"\x15\x03\x01\x00\x02\x02\x46",
    "bare lf": b"HTTP/1.1 200 OK\ncontent-length: 0\n\n",
    "fold": answer(b"x: a\r\n b", b"content-length: 0"),
    "nul": answer(b"x: a\0b", b"content-length: 0"),
    "no colon": answer(b"xyz", b"content-length: 0"),
    "space before colon": answer(b"x : y", b"content-length: 0"),
    "switching": answer(b"connection: upgrade", b"upgrade: x", status=b"HTTP/1.1 101 Switching"),
    "switching, bare": answer(status=b"HTTP/1.1 101 Switching"),
    "status 000": answer(b"content-length: 0", status=b"HTTP/1.1 000 x"),
    "status 999": answer(b"content-length: 0", status=b"HTTP/1.1 999 x"),
    "interim with a body": answer(b"content-length: 2", body=b"ok", status=b"HTTP/1.1 103 x"),
    "endless interim": answer(status=b"HTTP/1.1 102 Processing") * 9,
    "large head": answer(*(b"x-%d: %s" % (i, b"y" * 1000) for i in range(70)), b"content-length: 0"),
    "large field": answer(b"x: " + b"y" * HEAD_BYTES),
    "large reason": b"HTTP/1.1 200 " + b"y" * HEAD_BYTES,
}


@pytest.mark.parametrize("name", GOOD)
def test_every_split_gives_the_same(line: Any, name: str) -> None:
    method, data, want, kept = GOOD[name]
    for at in range(len(data)):
        one = line(method)
        one.feed(data[:at], data[at:])
        assert (one.result(), one.kept) == (want, kept), at
    one = line(method)
    one.feed(*(data[i : i + 1] for i in range(len(data))))
    assert (one.result(), one.kept) == (want, kept)


@pytest.mark.parametrize("name", GOOD)
def test_every_cut_is_the_answer_or_a_fault(line: Any, name: str) -> None:
    method, data, want, _ = GOOD[name]
    for at in range(len(data)):
        one = line(method)
        one.feed(data[:at])
        one.end()
        # An answer is whole before its last byte only where no body can follow.
        assert one.result() in ("cut", want), at
        assert one.owner.told[-1] == "lost"
        if one.result() == want:
            assert want[1] == b""


def test_body_that_ends_with_the_connection(line: Any) -> None:
    head = TO_EOF.index(b"\r\n\r\n") + 4
    for at in range(len(TO_EOF) + 1):
        one = line()
        one.feed(TO_EOF[:at])
        assert one.result() == "open"
        one.end()
        assert one.result() == ("cut" if at < head else (200, TO_EOF[head:at]))
        assert not one.kept


def test_body_that_ends_with_a_reset_is_cut(line: Any) -> None:
    one = line()
    one.feed(TO_EOF)
    one.connection.connection_lost(ConnectionResetError())
    assert one.result() == "cut"


@pytest.mark.parametrize("name", BAD)
def test_bad_answer_is_a_protocol_fault(line: Any, name: str) -> None:
    data = BAD[name]
    for step in (len(data), 4000, 1):
        if step == 1 and len(data) > 2000:
            continue
        one = line()
        one.feed(*(data[i : i + step] for i in range(0, len(data), step)))
        assert one.result() == "protocol"
        assert one.wire.ended == "abort"
        assert one.owner.told == ["leave"]


@pytest.mark.parametrize("name", [n for n in GOOD if GOOD[n][3]])
@pytest.mark.parametrize("more", [b"x", b"HT", LENGTH, LENGTH[:-3], CHUNKED_ANSWER])
def test_bytes_after_the_end_close_the_connection(line: Any, name: str, more: bytes) -> None:
    method, data, want, _ = GOOD[name]
    together, apart = line(method), line(method)
    together.feed(data + more)
    apart.feed(data, more)
    for one in (together, apart):
        assert one.result() == want
        assert one.wire.ended == "close"


def test_no_head_is_fed_past_its_bound(line: Any) -> None:
    one = line()
    one.feed(b"HTTP/1.1 200 OK\r\nx: ", *[b"y" * 1000] * 65)
    assert one.result() == "open"
    one.feed(b"y" * 1_000_000)
    assert one.result() == "protocol"


def test_large_body_in_the_read_of_the_head(line: Any) -> None:
    one = line()
    body = b"z" * 200_000
    one.feed(answer(b"content-length: 200000", body=body))
    assert one.result() == (200, body)


@pytest.mark.parametrize("endless", [b"1;" + b"x" * 9000, b"0\r\n" + b"x: y\r\n" * 2000])
def test_framing_without_end(line: Any, endless: bytes) -> None:
    one = line()
    one.feed(answer(CHUNKED[:-2], body=endless), *[endless[4:]] * 10)
    assert one.result() == "protocol"


def test_fragmented_chunks_are_not_framing_without_end(line: Any) -> None:
    one = line()
    one.feed(answer(CHUNKED[:-2]))
    for _ in range(20_000):
        one.feed(b"2\r\n", b"ab", b"\r\n")
    one.feed(b"0\r\n\r\n")
    assert one.result() == (200, b"ab" * 20_000)


def test_headers(line: Any) -> None:
    one = line()
    one.feed(
        answer(b"Content-Type: application/json \t", b"X-Odd-NAME:a", b"vary: a", b"Vary: b", b"empty:", b"x: \xe9")
        + b"late"
    )
    assert one.response.headers == {
        "content-type": "application/json",
        "x-odd-name": "a",
        "vary": "a, b",
        "empty": "",
        "x": "\xe9",
    }


def test_trailers_are_dropped_and_interim_fields_forgotten(line: Any) -> None:
    one = line()
    one.feed(answer(b"secret: 1", status=b"HTTP/1.1 103 x"))
    one.feed(answer(CHUNKED[:-2], body=b"0\r\ncontent-type: x\r\nx-late: 1\r\n\r\n"))
    assert one.result() == (200, b"")
    assert one.response.headers == {"transfer-encoding": "chunked"}
    assert one.kept


def test_second_exchange_starts_anew(line: Any) -> None:
    one = line()
    for _ in range(30):
        one.feed(answer(status=b"HTTP/1.1 102 x") * 5 + answer(CHUNKED[:-2], b"x: y", body=b"0\r\n"), b"\r\n")
        assert one.result() == (200, b"")
        one.response, _ = one.connection.begin(b"request", 1.0, 1.0)
        one.feed(answer(b"content-length: 1", body=b"a"))
        assert one.result() == (200, b"a")
        assert one.response.headers == {"content-length": "1"}
        one.response, _ = one.connection.begin(b"request", 1.0, 1.0)


def test_connection_with_unsent_request_is_not_kept(line: Any) -> None:
    one = line()
    one.wire.unsent = 1
    one.feed(answer(b"content-length: 0", status=b"HTTP/1.1 413 x"))
    assert one.result() == (413, b"")
    assert one.wire.ended == "close"


def test_unasked_body_is_bounded(line: Any) -> None:
    one = line()
    one.feed(answer(b"content-length: 9000000"))
    while not one.wire.paused:
        one.feed(b"x" * 65536)
    assert one.response._size <= BUFFER_BYTES + 65536
    got: list[bytes] = []
    relay = one.response.relay(got.append)
    relay.send(None)
    assert not one.wire.paused
    assert [len(block) for block in got] == [BUFFER_BYTES + 65536]
    one.feed(b"y" * 10)
    assert got[-1] == b"y" * 10
    relay.close()
    assert one.wire.ended == "abort"


def test_relay_is_one_block_per_read(line: Any) -> None:
    one = line()
    got: list[bytes] = []
    one.feed(answer(CHUNKED[:-2], body=b"1\r\na\r\n1\r\nb\r\n"))
    relay = one.response.relay(got.append)
    relay.send(None)
    one.feed(b"1\r\nc\r\n2\r\nde\r\n1", b"\r\nf\r\n", b"0\r\n\r\n")
    assert got == [b"ab", b"cde", b"f"]
    with pytest.raises(StopIteration):
        relay.send(None)
    assert one.kept


def test_relay_delivers_what_came_before_the_fault(line: Any) -> None:
    one = line()
    got: list[bytes] = []
    one.feed(answer(CHUNKED[:-2], body=b"1\r\na\r\n"))
    relay = one.response.relay(got.append)
    relay.send(None)
    one.feed(b"1\r\nb\r\nzz\r\n")
    with pytest.raises(Fault) as caught:
        relay.send(None)
    assert (got, caught.value.kind, one.wire.ended) == ([b"a", b"b"], "protocol", "abort")
    late = line()
    late.feed(answer(CHUNKED[:-2], body=b"1\r\na\r\n"))
    late.end()
    got.clear()
    with pytest.raises(Fault) as caught:
        finished(late.response.relay(got.append))
    assert (got, caught.value.kind) == ([b"a"], "cut")


@pytest.mark.parametrize("early", [True, False])
def test_exception_of_the_sink_ends_the_call(line: Any, early: bool) -> None:
    one = line()

    def sink(_: bytes) -> None:
        raise ZeroDivisionError

    one.feed(answer(CHUNKED[:-2], body=b"1\r\na\r\n" if early else b""))
    relay = one.response.relay(sink)
    with pytest.raises(ZeroDivisionError):
        through(relay, one, b"1\r\na\r\n")
    assert one.wire.ended == "abort"


def test_sink_that_gives_up(line: Any) -> None:
    one = line()
    one.feed(answer(b"content-length: 2"))
    relay = one.response.relay(lambda _: one.response.abort())
    relay.send(None)
    one.feed(b"ok")
    with pytest.raises(Fault) as caught:
        relay.send(None)
    assert caught.value.kind == "cut"
    assert one.owner.told == ["leave"]


def test_pause_ends_with_the_answer(line: Any) -> None:
    one = line()
    response: Response = one.response
    one.feed(answer(b"content-length: 4"))

    def sink(_: bytes) -> None:
        response.pause()
        response.pause()
        assert one.wire.paused

    relay = response.relay(sink)
    relay.send(None)
    one.feed(b"ab")
    assert one.wire.paused
    response.resume()
    one.feed(b"cd")
    assert not one.wire.paused
    assert one.kept
    response.pause()
    response.abort()
    assert not one.wire.paused
    assert one.kept
    with pytest.raises(StopIteration):
        relay.send(None)


def test_read_limit(line: Any) -> None:
    for data, more in (
        (answer(b"content-length: 6"), b""),
        (answer(b"content-length: 6", body=b"sixsix"), b""),
        (answer(CHUNKED[:-2], body=b"6\r\nsixsix\r\n"), b""),
        (answer(CHUNKED[:-2]), b"6\r\nsixsix\r\n"),
    ):
        one = line()
        one.feed(data)
        read = one.response.read(5)
        with pytest.raises(Fault) as caught:
            through(read, one, more)
        assert caught.value.kind == "too_large"
        one = line()
        one.feed(answer(b"content-length: 5", body=b"whole"))
        assert one.result(5) == (200, b"whole")


FIELDS = [
    *(b"content-length: 5", b"Content-Length: 5", b"content-length: 4", b"content-length:5\t ", b"content-length: 05"),
    *(b"connection: keep-alive", b"connection: close", b"connection: keep-alive, close", b"Connection: upgrade"),
    *(b"transfer-encoding: chunked", b"upgrade: h2c", b"x-a: 1", b"X-A: 2", b"x-a:", b"x-b: \xe4 \t b ", b"x: a\x7fb"),
    *(b"x\t: y", b": y", b"x", b"", b" x: folded", b"keep-alive: timeout=5", b"date: today", b"x: a\rb", b"x: a\nb"),
]
STARTS = [
    *(b"HTTP/1.1 200 OK", b"HTTP/1.1 200 ", b"HTTP/1.1 200", b"HTTP/1.1 404 Not\tFound", b"HTTP/1.1 204 No Content"),
    *(b"HTTP/1.0 200 OK", b"HTTP/1.1 100 Continue", b"HTTP/1.1  200 OK", b"http/1.1 200 OK", b"HTTP/1.1 200 \xe4\x01"),
]


@settings(max_examples=1_000, deadline=None)
@given(
    st.sampled_from(STARTS),
    st.lists(st.sampled_from(FIELDS) | st.binary(max_size=8), max_size=5),
    st.sampled_from([b"hello", b"hell", b"", b"hello!", b"5\r\nhello\r\n0\r\n\r\n"]),
)
def test_what_is_read_in_one_go_is_what_llhttp_reads(start: bytes, fields: list[bytes], body: bytes) -> None:
    data = answer(b"content-length: 5", *fields, body=body, status=start)
    whole, again, parts = lines = Line(), Line(), Line()
    again.connection.whole = whole.connection.whole  # by what it has learned of the first
    for each in lines:
        each.feed(*((data[:1], data[1:]) if each is parts else (data,)))
    seen = [(each.kept, each.result(), each.response.headers) for each in lines]
    assert seen[0] == seen[1] == seen[2]
    for each in lines:
        each.end()
        each.loop.close()


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([*GOOD]), st.lists(st.integers(0, 300), max_size=8), st.integers(0, 400), st.binary(max_size=3))
def test_any_corruption_ends_in_an_answer_or_a_fault(name: str, cuts: list[int], at: int, noise: bytes) -> None:
    method, data, _, _ = GOOD[name]
    data = data[:at] + noise + data[at + len(noise) :]
    edges = sorted({0, *(c for c in cuts if c < len(data)), len(data)})
    one = Line(method)
    one.feed(*(data[a:b] for a, b in pairwise(edges)))
    one.end()
    one.loop.close()
    assert one.result() != "open"
    assert one.owner.told.count("leave") == one.owner.told.count("lost") == 1
