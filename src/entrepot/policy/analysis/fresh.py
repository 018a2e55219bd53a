"""Fresh lists to compare sets with, as a TOML file `set.NAME = ["DE", …]` or `[set.NAME]` with `territories`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping

from entrepot.policy.model import Set
from entrepot.resources.territories import normalise_territory


def fresh_lists(data: bytes, sets: Mapping[str, Set]) -> dict[str, list[str]]:
    """The values by set, territories as packs write them.

    Raises `ValueError` when the file is not such a list, or names a set or a territory that does not exist.
    """
    try:
        raw = tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from error
    given = raw.get("set")
    if not isinstance(given, dict) or not given:
        raise ValueError('no list in it; write `set.NAME = ["DE", …]`')
    found = {}
    for name, item in given.items():
        if name not in sets:
            raise ValueError(f"unknown set `{name}`")
        values = item.get(sets[name].kind) if isinstance(item, dict) else item
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise ValueError(f"`set.{name}` is not a list of texts")
        found[name] = _codes(name, values) if sets[name].kind == "territories" else values
    return found


def _codes(name: str, values: list[str]) -> list[str]:
    codes = {value: normalise_territory(value) for value in values}
    wrong = ", ".join(f"`{value}`" for value, code in codes.items() if code is None)
    if wrong:
        raise ValueError(f"no territory in `set.{name}`: {wrong}; use codes of ISO 3166-1 alpha-2 or 3166-2")
    return [code for code in codes.values() if code is not None]
