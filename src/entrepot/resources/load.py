"""The files of a world, as bytes → World, with every mistake told at once. No I/O: `folder` reads the bytes."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import Any

import msgspec

from entrepot.resources.checking import check_world
from entrepot.resources.folder import SHIPPED, fingerprint, inside, named_packs, read_world
from entrepot.resources.model import Gateway, PackSource, World
from entrepot.resources.parsing import decode, parse
from entrepot.resources.places import Places
from entrepot.resources.problems import Problem, WorldInvalid
from entrepot.resources.reading import Sheet, suggest
from entrepot.resources.schema import read_file

__all__ = ["Loaded", "fingerprint", "load_world", "read_world"]


class Loaded(msgspec.Struct, frozen=True):
    """A valid world, and what should be looked at all the same."""

    world: World
    warnings: tuple[Problem, ...] = ()


def load_world(files: Mapping[str, bytes], shipped: Mapping[str, bytes]) -> Loaded:
    """The World that the files declare. Pure: the same bytes give the same World in every process.

    `shipped` holds the packs that come with Entrepot by name, without `entrepot:`. The packs' bytes are carried, not
    read: `policy.parse` does that. Raises WorldInvalid with every mistake.
    """
    collecting = gc.isenabled()
    gc.disable()  # a large world is half a million live objects and no garbage: collections cost a third of the time
    try:
        return _load(files, shipped)
    finally:
        if collecting:
            gc.enable()


def _load(files: Mapping[str, bytes], shipped: Mapping[str, bytes]) -> Loaded:
    sheet = Sheet()
    named = {pack for data in files.values() for pack in named_packs(data)}
    texts: dict[str, str] = {}
    documents: dict[str, dict[str, Any]] = {}
    unnamed: list[str] = []
    for file, data in files.items():
        sheet.file = file
        if file in named and named_packs(data):
            what, fix = (
                "a file with `[policy]` is named as a pack",
                "take it out of `packs`; packs have tables of their own",
            )
            sheet.mistake(("policy", "packs"), what, fix)
        if file in named or "/" in file:
            continue
        text = decode(data, sheet)
        document = None if text is None else parse(text, sheet)
        if text is not None and document is not None:
            texts[file], documents[file] = text, document
            if _is_pack(document):
                unnamed.append(file)
            else:
                read_file(document, sheet)
    for file in unnamed if not sheet.lost else ():  # a line that does not parse may name it
        fix = f"add `{file}` to `[policy].packs`, or keep a draft outside the folder or in a subfolder of it"
        sheet.mistake(("pack",), "a policy pack that the world does not name", fix, file)
    if files and not any(documents.values()) and not sheet.errors:
        # An emptied file is a slip, not the wish to refuse everybody.
        sheet.mistake((), "the files declare nothing", "declare what is served, or restore the files", min(files))
    places = Places(texts, documents)
    check_world(sheet, places.place)
    packs = _packs(files, shipped, sheet)
    problems = places.problems(sheet.findings)
    if sheet.errors:
        raise WorldInvalid(problems, packs)
    return Loaded(_world(sheet, packs), problems)


def _is_pack(document: Mapping[str, Any]) -> bool:
    return "pack" in document and document.keys() <= {"pack", "set", "rule", "case", "invariant"}


def _world(sheet: Sheet, packs: tuple[PackSource, ...]) -> World:
    def all_of(kind: str) -> tuple[Any, ...]:
        return tuple(row.struct for row in sheet.rows.get(kind, ()))

    gateways = all_of("gateway")
    return World(
        gateway=gateways[0] if gateways else Gateway(),
        sites=all_of("site"),
        operators=all_of("operator"),
        regions=all_of("region"),
        providers=all_of("provider"),
        upstreams=all_of("upstream"),
        models=all_of("model"),
        organizations=all_of("organization"),
        subscriptions=all_of("subscription"),
        accounts=all_of("account"),
        packs=packs,
        warn_days=next((policy.warn_days for policy in all_of("policy")), World().warn_days),
    )


def _packs(files: Mapping[str, bytes], shipped: Mapping[str, bytes], sheet: Sheet) -> tuple[PackSource, ...]:
    rows = sheet.rows.get("policy", [])
    found: dict[str, bytes] = {}
    for row in rows:
        for i, pack in enumerate(row.values.get("packs", ())):
            at = (*row.path, "packs", i)
            data = shipped.get(pack.removeprefix(SHIPPED)) if pack.startswith(SHIPPED) else files.get(pack)
            if pack in found:
                sheet.mistake(at, f"`{pack}` stands here twice", "name each pack once", row.file)
            elif data is not None:
                found[pack] = data
            elif pack.startswith(SHIPPED):
                names = [SHIPPED + name for name in shipped]
                sheet.mistake(at, f"no pack `{pack}` is shipped", suggest(pack, names, "shipped packs"), row.file)
            elif not inside(pack):
                sheet.mistake(
                    at, f"`{pack}` leads out of the world's folder", 'write such as `"packs/base.toml"`', row.file
                )
            else:
                fix = "add the file, or correct the path, which is relative to the world's folder"
                sheet.mistake(at, f"there is no file `{pack}`", fix, row.file)
    if not found and not sheet.errors:
        file = rows[0].file if rows else ""
        fix = 'add `packs = ["entrepot:base"]` to `[policy]`'
        sheet.warn(("policy",), "no policy pack is named, so every call is refused", fix, file)
    return tuple(PackSource(name, data) for name, data in found.items())
