"""The scanner finds what the parser found: every path of a document has the line where it was written."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrepot.resources.lines import Lines

TEXT = '''\
top = 1
[gateway]
listen = "a # no comment" # a comment with [[brackets]]
limits.header_s = 5
limits.body_s = 6

[[account]]
name = "a"
  [[account.deployment]]
  name = "d0"
  [[account.deployment]]
  name = "d1"
text = """
[[account]]
name = "inside a text \\""""
[[account]]
"quoted key" = 'x = 1'
list = [
    1, # one
    [2,
     3],
    { a = 1, b.c = [
        { d = 4 },
    ] },
]
[[account.deployment]]
name = "d2"
[account.keys]
key1 = """x"""
'''

PLACES = {
    ("top",): 1,
    ("gateway",): 2,
    ("gateway", "listen"): 3,
    ("gateway", "limits"): 4,
    ("gateway", "limits", "body_s"): 5,
    ("account", 0): 7,
    ("account", 0, "deployment", 0): 9,
    ("account", 0, "deployment", 1, "name"): 12,
    ("account", 0, "deployment", 1, "text"): 13,
    ("account", 1): 16,
    ("account", 1, "quoted key"): 17,
    ("account", 1, "list"): 18,
    ("account", 1, "list", 0): 19,
    ("account", 1, "list", 1): 20,
    ("account", 1, "list", 1, 1): 21,
    ("account", 1, "list", 2, "a"): 22,
    ("account", 1, "list", 2, "b", "c"): 22,
    ("account", 1, "list", 2, "b", "c", 0, "d"): 23,
    ("account", 1, "deployment", 0, "name"): 27,
    ("account", 1, "keys", "key1"): 29,
}


def test_the_example_is_toml() -> None:
    tomllib.loads(TEXT)


@pytest.mark.parametrize(("path", "line"), PLACES.items(), ids=str)
def test_places(path: tuple[str | int, ...], line: int) -> None:
    assert Lines(TEXT).find(path) == line


def test_what_is_not_there_has_the_line_of_what_is_around_it() -> None:
    lines = Lines(TEXT)
    assert lines.find(("account", 1, "nothing")) == 16
    assert lines.find(("account", 1, "list", 0, "deep")) == 19
    assert lines.find(("nothing",)) is None


KEYS = st.sampled_from(["a", "b-c", "d_1", '"e f"', "'g.h'"])
WHITE = st.sampled_from([" ", "", "\n", " # [[not]] = {a comment}\n", "\n\n"])
SCALARS = st.sampled_from(["1", '"x"', "'[y]'", '"""\n[[z]]\n"""', "2024-01-01", "true", "'''\nq = 1'''"])


@st.composite
def arrays(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    items = draw(st.lists(values, max_size=3))
    return "[" + ",".join(draw(WHITE) + item + draw(WHITE) for item in items) + "]"


@st.composite
def inline_tables(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    keys = draw(st.lists(KEYS, max_size=3, unique=True))
    return "{ " + ", ".join(f"{key} = {draw(values)}" for key in keys) + " }"


VALUES = st.recursive(SCALARS, lambda inner: arrays(inner) | inline_tables(inner), max_leaves=8)


@st.composite
def documents(draw: st.DrawFn) -> str:
    parts = []
    for _ in range(draw(st.integers(1, 4))):
        header = draw(st.sampled_from(["[[m]]", "[[m]]\n[[m.n]]", "# nothing\n[[ o . p ]]"]))
        keys = draw(st.lists(KEYS, max_size=3, unique=True))
        parts.append(
            header + "\n" + "".join(f"{key} = {draw(VALUES)}{draw(st.sampled_from(['', ' # c']))}\n" for key in keys)
        )
    return "\n".join(parts)


def paths(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, item in items for found in paths(item, (*path, key)))]


@given(documents())
def test_every_path_of_a_document_is_found_where_its_key_is_written(text: str) -> None:
    lines = Lines(text)
    rows = text.split("\n")
    for path in paths(tomllib.loads(text))[1:]:
        line = lines.find(path)
        assert line is not None
        if isinstance(path[-1], str):
            assert path[-1].partition(" ")[0] in rows[line - 1]


@given(st.text(alphabet="[]{}=\"'#,.\n a1\\", max_size=60))
def test_any_text_is_scanned_to_its_end(text: str) -> None:
    assert Lines(text).find(("no such key",)) is None
