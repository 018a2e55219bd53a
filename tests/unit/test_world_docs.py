"""`docs/world.md` is complete, has the defaults of the code, and its example loads."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from entrepot.resources.load import load_world
from entrepot.resources.reading import Shape
from entrepot.resources.schema import INNER, MANY, ONCE

TEXT = (Path(__file__).parents[2] / "docs" / "world.md").read_text(encoding="utf-8")
SHAPES = [*ONCE.values(), *MANY.values(), *INNER.values()]


def rows_of(shape: Shape) -> dict[str, list[str]]:
    heading = {**{k: f"## `[{k}]`" for k in ONCE}, **{k: f"## `[[{k}]]`" for k in MANY}}.get(
        shape.kind, f"### `{shape.kind}`"
    )
    section = re.split(r"(?m)^#{2,3} ", TEXT.split(f"\n{heading}\n")[1])[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:3] == "| `"]
    return {row[0].strip("`"): row for row in rows}


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.kind)
def test_every_key_is_documented_with_its_default(shape: Shape) -> None:
    rows = rows_of(shape)
    assert list(rows) == list(shape.keys)
    defaults = {f.name: f.default for f in msgspec.structs.fields(shape.struct)}
    for name, key in shape.keys.items():
        told, default = rows[name][2], defaults[key.field or name]
        if name in shape.required:
            assert told == "required"
        elif default is None:
            assert told in {"none", "unknown"}
        elif default == ():
            assert told == "`[]`"
        elif isinstance(default, msgspec.Struct):
            assert told == "see there"
        elif isinstance(default, bool):
            assert told == ("`true`" if default else "`false`")
        else:
            assert told == f"`{default}`"


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.kind)
def test_every_field_of_a_struct_has_a_key(shape: Shape) -> None:
    assert {key.field or name for name, key in shape.keys.items()} == set(shape.struct.__struct_fields__)


def test_the_example_is_a_valid_world() -> None:
    example = TEXT.split("```toml\n")[1].split("```")[0]
    loaded = load_world({"world.toml": example.encode()}, {"base": b"", "openai-api": b""})
    assert loaded.warnings == ()
    assert [account.name for account in loaded.world.accounts] == ["robotics-ai"]
