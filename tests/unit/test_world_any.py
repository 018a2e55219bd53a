"""Whatever stands in a world, the answer is a world or a list of problems that can be read, never another failure."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world_texts import WORLD, problems

LINES = WORLD.splitlines()
TYPED = """
1 -1 1.5 nan inf true "" "x" "*" "unknown" "none" "env:X" "::/0" "::1%x" "\\u0000" "\\n" [] [[]] {} [{}] [1] ["x",1]
{x=1} [{name=1,of=[]}] 2024-01-01 12:00:00 0001-01-01T00:00:00+14:00 9999-12-31T23:59:59-14:00
"""
VALUES = [*TYPED.split(), '"' + "a" * 300 + '"', "[" * 40 + "]" * 40]
EDITS = st.tuples(st.integers(0, len(LINES) - 1), st.sampled_from(["drop", "twice", "cut", "swap"]))


@given(st.integers(0, len(LINES) - 1), st.sampled_from(VALUES))
def test_any_value_of_any_key(at: int, value: str) -> None:
    line = re.sub(r"=.*", lambda _: f"= {value}", LINES[at])
    text = "\n".join([*LINES[:at], line, *LINES[at + 1 :]])
    for problem in problems(text):
        assert problem.what
        assert problem.fix
        assert problem.file == "world.toml"


@given(
    st.lists(st.tuples(st.integers(0, len(LINES) - 1), st.sampled_from(["drop", "twice", "cut", "swap"])), max_size=6)
)
def test_any_disorder_of_lines(edits: list[tuple[int, str]]) -> None:
    lines = list(LINES)
    for at, edit in edits:
        line = lines[at % len(lines)]
        new = {"drop": [], "twice": [line, line], "cut": [line[: len(line) // 2]], "swap": [lines[0], line]}[edit]
        lines[at % len(lines) : at % len(lines) + 1] = new or [""]
    problems("\n".join(lines))


@given(st.binary(max_size=80), st.integers(0, len(WORLD)))
def test_any_bytes_anywhere(junk: bytes, at: int) -> None:
    problems(broken=WORLD[:at].encode() + junk + WORLD[at:].encode())


@pytest.mark.parametrize("text", ["x = " + "9" * 5_000, "x = " + "[" * 100_000], ids=["long", "deep"])
@pytest.mark.parametrize("before", ["", "[policy]\n"])
def test_numbers_too_long_and_values_too_deep(text: str, before: str) -> None:
    assert any(problem.level == "error" for problem in problems(before + text))
