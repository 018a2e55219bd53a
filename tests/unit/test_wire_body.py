from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrepot.errors import Code, Error
from entrepot.wire import body

NAMES = ("model", "stream", "stream_options", "messages", "n", "x")
values = st.sampled_from(
    ['"a"', '"\\u0061"', "true", "false", "null", "1.50", '{"model":"x","Model":"y"}', '[{"a": 1}]', '"é"']
)


@st.composite
def spelled(draw: st.DrawFn) -> str:
    """A name as JSON: any letter escaped, any letter in capitals."""
    name = draw(st.sampled_from(NAMES))
    letters = []
    for letter in name:
        turned = letter.upper() if draw(st.integers(0, 19)) == 0 else letter
        letters.append(f"\\u{ord(turned):04x}" if draw(st.integers(0, 3)) == 0 else turned)
    return '"' + "".join(letters) + '"'


@st.composite
def objects(draw: st.DrawFn) -> bytes:
    pairs = draw(st.lists(st.tuples(spelled(), values), max_size=8))
    space = draw(st.sampled_from(["", " ", "\n\t"]))
    return ("{" + ("," + space).join([f"{name}:{space}{value}" for name, value in pairs]) + "}").encode()


def first_wins(data: bytes) -> dict[str, Any]:
    return json.loads(data, object_pairs_hook=lambda pairs: dict(reversed(pairs)))


def ignoring_case(data: bytes) -> dict[str, Any]:
    return json.loads(data, object_pairs_hook=lambda pairs: {name.casefold(): value for name, value in pairs})


@given(objects())
def test_what_was_decided_is_what_any_reader_sees(data: bytes) -> None:
    try:
        fields = body.decode(data)
        model = body.string_field(fields, "model")
        stream = body.is_stream(fields)
        if stream:
            asked = body.ask_for_usage(fields)
    except Error as error:
        assert error.code in {Code.INVALID_BODY, Code.AMBIGUOUS_FIELD}  # noqa: PT017
        return
    given = json.loads(data)
    sent = body.encode(fields)
    for read in (json.loads, first_wins, ignoring_case, msgspec.json.decode):
        seen = read(sent)
        assert seen.get("model") == model
        assert (seen.get("stream") is True) is stream
        if stream:
            assert seen["stream_options"]["include_usage"] is True
            options = given.get("stream_options") or {}
            assert asked is (options.get("include_usage") is True)
    kept = json.loads(sent)
    for name in given.keys() - {"stream_options"}:
        assert kept[name] == given[name]
    body.set_model(fields, 'the "other"')
    for read in (json.loads, first_wins, ignoring_case):
        assert read(body.encode(fields))["model"] == 'the "other"'


@given(st.binary(max_size=40) | st.binary(max_size=12).map(lambda nested: b'{"a":["' + nested + b'"]}'))
def test_what_leaves_is_json_and_utf8_or_it_is_refused(data: bytes) -> None:
    try:
        sent = body.encode(body.decode(data))
    except Error as error:
        assert error.code in {Code.INVALID_BODY, Code.AMBIGUOUS_FIELD}  # noqa: PT017
        return
    assert json.loads(sent.decode()) == json.loads(data.decode())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"7",
        b'"x"',
        b"null",
        b'{"a":1',
        b'{"a":1}x',
        b'{"a":NaN}',
        b'{"a":[1,]}',
        b'{"a":["\xff"]}',
        b'{"\xff":1}',
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":["\\ud800"]}',
        b'\xef\xbb\xbf{"a":1}',
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
    ids=range(15),
)
def test_invalid_bodies(data: bytes) -> None:
    with pytest.raises(Error) as raised:
        body.decode(data)
    assert raised.value.code is Code.INVALID_BODY


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b'{"model":"a","Model":"b"}', "`model` and `Model`"),
        (b'{"X":1,"x":2}', "`X` and `x`"),
        (b'{"\\u004dodel":"a"}', "`Model` must be written `model`"),
        (b'{"\xc5\xbftream":true}', "must be written `stream`"),
    ],
)
def test_ambiguous_names_are_refused_by_name(data: bytes, named: str) -> None:
    with pytest.raises(Error, match=named) as raised:
        body.decode(data)
    assert raised.value.code is Code.AMBIGUOUS_FIELD


def test_a_capital_of_its_own_passes_through() -> None:
    assert body.encode(body.decode(b'{"Other":1,"model":"m"}')) == b'{"Other":1,"model":"m"}'


def test_nested_bytes_leave_as_they_came() -> None:
    nested = b'[ {"role":"user", "content":"\\u00e9 \xc3\xa9", "x":1.500, "x":2} ]'
    fields = body.decode(b'{"messages":' + nested + b',"model":"a","model":"b"}')
    body.set_model(fields, "c")
    assert body.encode(fields) == b'{"messages":' + nested + b',"model":"c"}'


@pytest.mark.parametrize(
    ("given", "asked", "sent"),
    [
        (b"{}", False, {"include_usage": True}),
        (b'{"stream_options":null}', False, {"include_usage": True}),
        (b'{"stream_options":{"include_usage":true}}', True, {"include_usage": True}),
        (b'{"stream_options":{"include_usage":false,"include_obfuscation":false}}', False,
         {"include_usage": True, "include_obfuscation": False}),
        (b'{"stream_options":{"include_usage":true,"include_usage":false}}', False, {"include_usage": True}),
    ],
)  # fmt: skip
def test_ask_for_usage(given: bytes, asked: bool, sent: object) -> None:
    fields = body.decode(given)
    assert body.ask_for_usage(fields) is asked
    assert json.loads(body.encode(fields))["stream_options"] == sent


@pytest.mark.parametrize(
    "given",
    [b'{"stream_options":7}', b'{"stream_options":{"include_usage":1}}', b'{"stream_options":{"Include_usage":false}}'],
)
def test_odd_stream_options_are_refused(given: bytes) -> None:
    fields = body.decode(given)
    with pytest.raises(Error):
        body.ask_for_usage(fields)


@pytest.mark.parametrize("given", [b'{"model":7}', b'{"model":["a"]}', b'{"model":{}}', b'{"model":true}'])
def test_a_model_that_is_no_string_is_refused(given: bytes) -> None:
    with pytest.raises(Error, match="`model` must be a string"):
        body.string_field(body.decode(given), "model")


@pytest.mark.parametrize("given", [b'{"stream":"true"}', b'{"stream":1}', b'{"stream":[]}'])
def test_stream_is_a_boolean(given: bytes) -> None:
    with pytest.raises(Error, match="`stream` must be true or false"):
        body.is_stream(body.decode(given))
