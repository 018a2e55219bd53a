from __future__ import annotations

import pytest
from starlette.requests import Request

from entrepot.errors import Code, Error
from entrepot.management.etags import named


def request(*values: str, header: str = "if-match") -> Request:
    return Request({"type": "http", "headers": [(header.encode(), value.encode("latin-1")) for value in values]})


@pytest.mark.parametrize(
    ("values", "tags"),
    [
        ((), None),
        (("*",), {"*"}),
        ((' "a1" ',), {"a1"}),
        (("a1",), {"a1"}),
        (('W/"a1"',), {"a1"}),
        (('"a,1" , W/"b"',), {"a,1", "b"}),
        (('"a"', "b"), {"a", "b"}),
        (('""',), {""}),
    ],
)
def test_etags_are_read(values: tuple[str, ...], tags: set[str] | None) -> None:
    assert named(request(*values), "If-Match") == tags
    assert named(request(*values), "If-None-Match") is None


@pytest.mark.parametrize(
    "value",
    ["", ",", '"a', 'a"', '"a" "b"', '*, "a"', '"*"', "W/*", 'w/"a"', "é", '"a",', "a b", '"a b"', "x" * 65, "{}"],
)
def test_what_is_no_etag_is_refused_and_not_passed_over(value: str) -> None:
    for values in ((value,), ('"a"', value)):
        with pytest.raises(Error, match="`If-Match` is no ETag; write") as raised:
            named(request(*values), "If-Match")
        assert (raised.value.code, raised.value.param) == (Code.BAD_REQUEST, "If-Match")
