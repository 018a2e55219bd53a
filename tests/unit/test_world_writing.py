"""Worlds as TOML: what is written is read again as the same world."""

from __future__ import annotations

from random import Random

import msgspec
import pytest
import tomli
from test_resources_documents import any_world
from world_texts import WORLD

from entrepot.policy import shipped, shipped_names
from entrepot.resources import model as declared
from entrepot.resources.load import load_world
from entrepot.resources.model import PackSource, World
from entrepot.resources.reading import Sheet
from entrepot.resources.schema import read_file
from entrepot.resources.writing import files_of
from worlds import demo_world


def test_worlds_come_back() -> None:
    packs = {name.removeprefix("entrepot:"): shipped(name).data for name in shipped_names()}
    for world in (demo_world(), load_world({"world.toml": WORLD.encode()}, packs).world):
        assert load_world(files_of(world), packs).world == world


@pytest.mark.parametrize("seed", range(40))
def test_any_world_comes_back(seed: int) -> None:
    world = any_world(Random(seed))
    sheet = Sheet()
    for data in files_of(world).values():
        read_file(tomli.loads(data.decode()), sheet)
    assert not sheet.errors, sheet.findings
    for field in ("sites", "operators", "regions", "upstreams", "models", "organizations", "subscriptions", "accounts"):
        found = tuple(row.struct for row in sheet.rows.get(field.removesuffix("s"), ()))
        assert found == getattr(world, field), field


@pytest.mark.parametrize("text", ['"', "\\", "\x7f", "\u2028", "é中", "a'b", "\U0001f600"])
def test_texts_of_every_kind(text: str) -> None:
    world = World(operators=(declared.Operator("o", text, "JP"),))
    assert tomli.loads(files_of(world)["world.toml"].decode())["operator"][0]["legal_name"] == text


def test_what_is_default_is_left_out_and_packs_are_files() -> None:
    pack = PackSource("packs/own.toml", b"[pack]\n")
    files = files_of(World(packs=(PackSource("entrepot:base", b""), pack), warn_days=5))
    assert files == {
        "world.toml": b'[policy]\npacks = ["entrepot:base", "packs/own.toml"]\nwarn_days = 5\n',
        "packs/own.toml": b"[pack]\n",
    }
    assert files_of(msgspec.structs.replace(World(), gateway=declared.Gateway(workers=2))) == {
        "world.toml": b"[gateway]\nworkers = 2\n"
    }
