from __future__ import annotations

import json
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from entrepot.errors import Code, Error
from entrepot.wire import sse
from entrepot.wire.reported import Usage
from entrepot.wire.sse import Relay, error_event

CHUNK = {"id": "c", "choices": [{"index": 0, "delta": {"content": "häfen 港"}}]}
USAGE = {"id": "c", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 5}}


def event(value: object) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def read_all(stream: bytes) -> list[str]:
    """The SSE parser of the HTML standard, written slowly: the data of every event that was dispatched."""
    text = stream.decode("utf-8", "surrogateescape").removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    events, data = [], []
    for line in text.split("\n")[:-1]:
        if line == "":
            if data:
                events.append("\n".join(data))
            data = []
        elif line.startswith(":"):
            pass
        else:
            name, _, value = line.partition(":")
            if name == "data":
                data.append(value.removeprefix(" "))
    return events


def cut(stream: bytes, sizes: list[int]) -> list[bytes]:
    blocks, at = [], 0
    for size in sizes:
        blocks.append(stream[at : at + size])
        at += size
    return [*blocks, stream[at:]]


def run(relay: Relay, blocks: list[bytes]) -> bytes:
    return b"".join([relay.feed(block) for block in blocks]) + relay.finish()


def strict_lines(stream: bytes) -> bool:
    """The strictest stock reader: `data: …` LF, or empty."""
    return b"\r" not in stream and all(not line or line.startswith(b"data: ") for line in stream.split(b"\n"))


texts = st.text('aé港😀"\\\n\r{}: ', max_size=6)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
chunks = st.dictionaries(st.sampled_from(["id", "choices", "usage", "error", "x"]), json_values, max_size=4)


@st.composite
def rendered_events(draw: st.DrawFn) -> tuple[bytes, list[object]]:
    """A stream in any of the spellings that the standard allows, and the JSON values in it."""
    values = draw(st.lists(chunks, max_size=6))
    out = draw(st.sampled_from([b"", b"\xef\xbb\xbf"]))
    for value in values:
        end = draw(st.sampled_from([b"\n", b"\r\n", b"\r"]))
        space = draw(st.sampled_from([b" ", b"", b"  "]))
        indent = draw(st.sampled_from([None, 1]))
        out += draw(st.sampled_from([b"", b": ping" + end, b"event: chunk" + end, b"id: 7" + end, end]))
        for line in json.dumps(value, ensure_ascii=draw(st.booleans()), indent=indent).encode().split(b"\n"):
            out += b"data:" + space + line + end
        out += end
    return out, [*values]


@given(rendered_events(), st.lists(st.integers(1, 40), max_size=30))
def test_any_spelling_cut_anywhere_leaves_as_plain_data_lines(
    stream: tuple[bytes, list[object]], sizes: list[int]
) -> None:
    data, values = stream
    relay = Relay(keep_usage=True)
    out = run(relay, cut(data, sizes))
    assert strict_lines(out)
    assert [json.loads(item) for item in read_all(out)] == values
    assert relay.events == len(values)


@given(st.binary(max_size=200).map(lambda b: b"data: {" + b + b"}\n\n") | st.binary(max_size=80))
@example(b"data: {}\n\ndata: {}\n\n")
@example(b"data: {}\n\n\ndata: {}\n\n")
@example(b"data: {}\n\n\n\ndata: {}\n\n")
@example(b"data: {\ndata: {}\n\n\n\n")
@example(b"data: {}\n\nevent: x\n\ndata: {}\n\n")
@example(b"data: {}\n\ndata: [DONE]\n\n")
@example(b"data: {}\n\n: {}\n\n")
@example(b"data: {}\n\ndata: \n\ndata: {}\n\n")
def test_what_passes_untouched_is_only_single_data_lines(block: bytes) -> None:
    relay = Relay(keep_usage=True)
    if relay.feed(block) is block and block:
        lines = block.split(b"\n")
        assert all(line.startswith(b"data: {") for line in lines[:-2:2])
        assert all(line == b"" for line in lines[1::2])
        assert relay.events == len(read_all(block)) == block.count(b"\n") // 2


@given(st.binary(max_size=300), st.lists(st.integers(1, 20), max_size=20))
def test_garbage_never_breaks_the_line_rule(stream: bytes, sizes: list[int]) -> None:
    assert strict_lines(run(Relay(keep_usage=False), cut(stream, sizes)))


@pytest.mark.parametrize("count", [1, 3])
def test_clean_blocks_pass_as_the_same_object(count: int) -> None:
    relay = Relay(keep_usage=False)
    block = event(CHUNK) * count
    assert relay.feed(block) is block
    with_null = event({**CHUNK, "usage": None})
    assert relay.feed(with_null) is with_null
    spoken = event({"choices": [{"delta": {"content": '"usage": {"x": "error"}'}}]})
    assert relay.feed(spoken) is spoken
    assert relay.events == count + 2
    assert relay.usage is None


def test_usage_is_read_and_kept_from_a_client_that_did_not_ask() -> None:
    stream = event(CHUNK) + event({"choices": [], "usage": None}) + event(USAGE) + b"data: [DONE]\n\n"
    asked, silent = Relay(keep_usage=True), Relay(keep_usage=False)
    assert asked.feed(stream) == stream
    assert silent.feed(stream) == stream.replace(event(USAGE), b"")
    assert asked.usage == silent.usage == Usage(prompt=3, completion=5)
    assert (asked.events, silent.events) == (3, 2)
    assert silent.done


def test_usage_beside_content_is_relayed() -> None:
    stream = event({**CHUNK, "usage": USAGE["usage"]})
    relay = Relay(keep_usage=False)
    assert relay.feed(stream) == stream
    assert relay.usage == Usage(prompt=3, completion=5)


def test_an_empty_first_chunk_is_not_usage() -> None:
    first = event({"id": "", "choices": [], "prompt_filter_results": [{"prompt_index": 0}]})
    assert Relay(keep_usage=False).feed(first) is first


def test_details_of_usage() -> None:
    details = {
        "prompt_tokens": 9,
        "completion_tokens": 8,
        "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    relay = Relay(keep_usage=False)
    relay.feed(event({"choices": [], "usage": details}))
    assert relay.usage == Usage(prompt=9, completion=8, cached=4, reasoning=2)


@pytest.mark.parametrize(
    "usage", [{"prompt_tokens": -1}, {"prompt_tokens": "many"}, {}, [], 7, {"completion_tokens": None}]
)
def test_senseless_usage_is_none(usage: object) -> None:
    relay = Relay(keep_usage=False)
    stream = event({**CHUNK, "usage": usage})
    assert relay.feed(stream) == stream
    assert relay.usage is None


def test_an_error_object_is_noted_and_relayed_but_an_annotation_is_not_one() -> None:
    relay = Relay(keep_usage=False)
    annotated = event(
        {"choices": [{"content_filter_results": {"error": {"code": "content_filter_error"}}}], "error": None}
    )
    assert relay.feed(annotated) == annotated
    assert not relay.error
    failed = event({"error": {"message": "overloaded"}})
    assert relay.feed(b"event: error\n" + failed) == failed
    assert relay.error


def test_multi_byte_text_may_be_split_at_every_byte() -> None:
    stream = event(CHUNK) + b"data: [DONE]\n\n"
    for at in range(len(stream)):
        relay = Relay(keep_usage=False)
        assert relay.feed(stream[:at]) + relay.feed(stream[at:]) == stream
        assert relay.done


def test_after_a_split_event_clean_blocks_pass_untouched_again() -> None:
    relay = Relay(keep_usage=False)
    block = event(CHUNK)
    assert relay.feed(block[:9]) == b""
    assert relay.feed(block[9:]) == block
    assert relay.feed(block) is block


def test_nothing_follows_done() -> None:
    relay = Relay(keep_usage=False)
    assert relay.feed(b"data: [DONE]\n\n" + event(CHUNK)) == b"data: [DONE]\n\n"
    assert relay.feed(event(CHUNK)) == b""
    assert relay.finish() == b""


@pytest.mark.parametrize(
    ("tail", "flushed"),
    [
        (b'data: {"a":1}', b'data: {"a":1}\n\n'),
        (b'data: {"a":1}\r', b'data: {"a":1}\n\n'),
        (b"data: [DONE]\n", b"data: [DONE]\n\n"),
        (b'data: {"a":1', b""),
        (b"data: 12", b""),
        (b": ping\n", b""),
        (b"", b""),
    ],
)
def test_finish_flushes_only_what_is_whole(tail: bytes, flushed: bytes) -> None:
    relay = Relay(keep_usage=False)
    assert relay.feed(tail) == b""
    assert relay.finish() == flushed
    assert relay.done == (b"DONE" in flushed)


def test_an_event_without_end_is_refused_and_costs_linear_time() -> None:
    relay = Relay(keep_usage=False)
    relay.feed(b"data: {")
    block = b"x" * 4096
    for _ in range(sse.MAX_EVENT_BYTES // len(block) - 1):
        assert relay.feed(block) == b""
    with pytest.raises(Error) as raised:
        relay.feed(block)
    assert raised.value.code is Code.UPSTREAM_FAULT


def test_error_event_is_one_line() -> None:
    assert error_event(b'{"error":\n{}}') == b'data: {"error": {}}\n\n'


def test_the_order_of_arrival_does_not_change_what_leaves() -> None:
    stream = b"".join(event({**CHUNK, "n": n}) for n in range(50)) + event(USAGE) + b"data: [DONE]\n\n"
    whole = run(Relay(keep_usage=False), [stream])
    rng = random.Random(7)
    for _ in range(20):
        assert run(Relay(keep_usage=False), cut(stream, [rng.randrange(1, 200) for _ in range(60)])) == whole
