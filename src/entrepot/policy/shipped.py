"""The packs that come with Entrepot, named `entrepot:NAME` in a world. Data read from the installed package."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from entrepot.resources.model import PackSource

PREFIX: Final = "entrepot:"


def shipped_names() -> tuple[str, ...]:
    """`entrepot:NAME` of every shipped pack, sorted."""
    names = (entry.name for entry in (files("entrepot") / "packs").iterdir())
    return tuple(sorted(PREFIX + name.removesuffix(".toml") for name in names if name.endswith(".toml")))


def shipped(name: str) -> PackSource:
    """The pack `entrepot:NAME`. Raises `KeyError` when there is none."""
    if name not in shipped_names():
        raise KeyError(name)
    entry = files("entrepot") / "packs" / f"{name.removeprefix(PREFIX)}.toml"
    return PackSource(name, entry.read_bytes())
