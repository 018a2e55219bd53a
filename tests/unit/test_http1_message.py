"""Header blocks cannot be injected into."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrepot.http1.message import render_headers, status_line


def test_header_lines() -> None:
    assert render_headers([("x-a", "b c"), ("x-empty", ""), ("x-latin", "caf\xe9")]) == (
        b"x-a: b c\r\nx-empty: \r\nx-latin: caf\xe9\r\n"
    )
    assert render_headers([]) == b""


@pytest.mark.parametrize(
    "pair",
    [
        ("x", "a\r\nb: c"),
        ("x", "a\nb"),
        ("x", "a\rb"),
        ("x", "a\0"),
        ("x", "a\x7f"),
        ("x", "\u4e2d"),
        ("", "a"),
        ("x y", "a"),
        ("x:", "a"),
        ("x\r\ny", "a"),
        ("x: a\r\ny", "a"),
        ("x\xe9", "a"),
    ],
)
def test_what_a_header_cannot_carry(pair: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="invalid name or a character"):
        render_headers([("fine", "fine"), pair, ("fine", "fine")])


def test_the_error_does_not_tell_the_value() -> None:
    with pytest.raises(ValueError, match="authorization") as caught:
        render_headers([("authorization", "Bearer secret\n")])
    assert "secret" not in str(caught.value)


@given(st.lists(st.tuples(st.text(max_size=8), st.text(max_size=12)), max_size=4))
def test_what_is_rendered_reads_back_as_the_same_pairs(pairs: list[tuple[str, str]]) -> None:
    try:
        block = render_headers(pairs)
    except ValueError:
        return
    lines = block.decode("latin-1").split("\r\n")
    assert lines.pop() == ""
    assert [tuple(line.split(": ", 1)) for line in lines] == pairs


def test_status_lines() -> None:
    assert status_line(200) == b"HTTP/1.1 200 OK\r\n"
    assert status_line(299) == b"HTTP/1.1 299 \r\n"
