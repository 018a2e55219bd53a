"""What no table can tell by itself: names used twice, references to nothing, overlaps, deployments nobody can serve."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from entrepot.resources.candidates import candidate_regions
from entrepot.resources.lines import Path
from entrepot.resources.model import UNKNOWN, Gateway, Region
from entrepot.resources.reading import Reference, Row, Sheet, list_names, suggest
from entrepot.resources.territories import normalise_territory

# Gives the place of a row or key, for messages that name two places: (file, path) → `file:line`.
Place = Callable[[str, Path], str]

_NAMED = ("operator", "region", "provider", "upstream", "organization", "account")


def check_world(sheet: Sheet, place: Place) -> None:
    """Add to the sheet every mistake between tables. Rows with mistakes of their own take part with what is right."""
    _check_names(sheet, place)
    _check_references(sheet)
    _check_sites(sheet, place)
    _check_egress(sheet, place)
    _check_owners(sheet)
    check_gateway(sheet)
    _check_keys(sheet, place)
    _check_servable(sheet)


def _rows(sheet: Sheet, kind: str) -> list[Row]:
    return sheet.rows.get(kind, [])


def _check_names(sheet: Sheet, place: Place) -> None:
    for kind in _NAMED:
        fix = "rename one of them" if kind != "account" else "rename one: account names are unique in an instance"
        _once(sheet, place, ((row.values.get("name"), row, "name") for row in _rows(sheet, kind)), fix)
    _once(
        sheet,
        place,
        ((row.values.get("id"), row, "id") for row in _rows(sheet, "subscription")),
        "take one of them out",
    )
    _once(
        sheet, place, ((_model(row, "name"), row, "version") for row in _rows(sheet, "model")), "take one of them out"
    )
    for rows in _grouped(_rows(sheet, "deployment")):
        names = [(row.values.get("name"), row, "name") for row in rows]
        _once(sheet, place, names, "rename one of them: deployment names are unique in their account")
    for kind in ("gateway", "policy"):
        _once(sheet, place, ((f"[{kind}]", row, None) for row in _rows(sheet, kind)), "keep one in the whole world")


def _once(sheet: Sheet, place: Place, named: Iterable[tuple[Any, Row, str | None]], fix: str) -> None:
    first: dict[object, tuple[Row, str | None]] = {}
    for name, row, key in named:
        if name is None:
            continue
        earlier = first.setdefault(name, (row, key))
        if earlier[0] is not row:
            before = place(earlier[0].file, _at(earlier[0], earlier[1]))
            sheet.mistake(_at(row, key), f"`{name}` stands here again, first in {before}", fix, row.file)


def _at(row: Row, key: str | None) -> Path:
    return row.path if key is None else (*row.path, key)


def _model(row: Row, key: str) -> str | None:
    model, version = row.values.get(key), row.values.get("version")
    return f"{model}@{version}" if model and version else None


def _grouped(rows: list[Row]) -> list[list[Row]]:
    """Rows of inner tables by the table of the file that holds them."""
    groups: dict[tuple[str, Path], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.file, row.path[:2]), []).append(row)
    return list(groups.values())


def _check_references(sheet: Sheet) -> None:
    known: dict[str, dict[str, None]] = {
        kind: {row.values[key]: None for row in _rows(sheet, kind) if key in row.values}
        for kind, key in (*((kind, "name") for kind in _NAMED), ("subscription", "id"))
    }
    zones = {zone: None for row in _rows(sheet, "region") for zone in row.values.get("zones", ())}
    zones_lost = bool(sheet.lost) or any("zones" not in r.values and not r.struct for r in _rows(sheet, "region"))
    names_lost = not sheet.lost.isdisjoint(("*", "name", "id"))
    for ref in sheet.references:
        if ref.kind == "residency":
            if ref.name not in zones and not zones_lost:
                _check_residency(ref, zones, sheet)
        elif ref.name not in known[ref.kind] and not names_lost:
            fix = sheet.suggest(ref.name, known[ref.kind], f"declared {ref.kind}s")
            sheet.mistake(ref.path, f"there is no {ref.kind} `{ref.name}`", fix, ref.file)


def _check_residency(ref: Reference, zones: dict[str, None], sheet: Sheet) -> None:
    code = normalise_territory(ref.name)
    if code == ref.name:
        return
    fix = (
        f'write `"{code}"`'
        if code
        else sheet.suggest(ref.name, zones, "territories have codes such as `JP`; zones of regions")
    )
    sheet.mistake(ref.path, f"`{ref.name}` is neither a territory nor the zone of a region", fix, ref.file)


def check_gateway(sheet: Sheet) -> None:
    """What the keys of a gateway say together."""
    for row in _rows(sheet, "gateway"):
        gateway: Gateway | None = row.struct
        if gateway is None:
            continue
        if gateway.listen == gateway.admin_listen and not gateway.listen.endswith(":0"):
            what, fix = "both listeners have the same address", "give metrics a port of their own"
            sheet.mistake((*row.path, "admin_listen"), what, fix, row.file)
        if gateway.origin_header and not gateway.trusted_proxies:
            what, fix = "no proxy is trusted, so the header is never believed", "add `trusted_proxies`"
            sheet.warn((*row.path, "origin_header"), what, fix, row.file)
        if gateway.trusted_proxies and not gateway.origin_header:
            what = "no header is believed, so a proxy's own address counts as the client's"
            fix = 'add `origin_header = "x-forwarded-for"`'
            sheet.warn((*row.path, "trusted_proxies"), what, fix, row.file)


def _check_sites(sheet: Sheet, place: Place) -> None:
    _check_overlap(sheet, place, _rows(sheet, "site"))


def _check_egress(sheet: Sheet, place: Place) -> None:
    for rows in _grouped(_rows(sheet, "egress")):
        _check_overlap(sheet, place, rows)


def _check_owners(sheet: Sheet) -> None:
    for rows in _grouped(_rows(sheet, "owner")):
        territories: dict[str | None, str] = {}
        holdings: dict[str | None, int] = {}
        seen: set[tuple[str | None, str | None]] = set()
        for row in rows:
            name, of = row.values.get("name"), row.values.get("of")
            territory = row.values.get("territory", UNKNOWN)
            if territories.setdefault(name, territory) != territory:
                what = f"`{name}` has another territory above"
                sheet.mistake((*row.path, "territory"), what, "write one territory for it", row.file)
            if (name, of) in seen:
                what = f"the same holding of `{name}` stands here twice"
                sheet.mistake(row.path, what, "add the shares up into one", row.file)
            seen.add((name, of))
            holdings[of] = holdings.get(of, 0) + (row.values.get("share_micros") or 0)
        _check_chains(sheet, rows, territories)
        for of, total in holdings.items():
            if total > 100_000_000:
                what = (
                    f"the shares in {f'`{of}`' if of else 'the organization'} add up to {total / 1_000_000:g} per cent"
                )
                sheet.warn(rows[0].path[:-1], what, "correct the shares", rows[0].file)


def _check_chains(sheet: Sheet, rows: list[Row], owners: Iterable[str | None]) -> None:
    held: dict[str | None, list[str]] = {}
    for row in rows:
        if "of" in row.values:
            held.setdefault(row.values.get("name"), []).append(row.values["of"])
    names = [name for name in owners if name is not None]
    for row in rows:
        name, of = row.values.get("name"), row.values.get("of")
        if of is not None and of not in names:
            fix = suggest(of, names, "owners of this organization")
            sheet.mistake((*row.path, "of"), f"`{of}` is no owner of this organization", fix, row.file)
        elif of is not None and name is not None and _reaches(name, of, held):
            sheet.mistake((*row.path, "of"), f"`{name}` owns itself through a chain", "break the circle", row.file)


def _reaches(target: str, start: str, held: Mapping[str | None, list[str]]) -> bool:
    reached: set[str] = set()
    edge = [start]
    while edge:
        name = edge.pop()
        if name == target:
            return True
        if name not in reached:
            reached.add(name)
            edge += held.get(name, ())
    return False


def _check_overlap(sheet: Sheet, place: Place, rows: list[Row]) -> None:
    nets = sorted((_span(row) for row in rows if "network" in row.values), key=lambda item: item[:3])
    wide: tuple[int, int, int, Row] | None = None
    for net in nets:
        if wide and wide[0] == net[0] and net[1] <= -wide[2]:
            first, second = wide[3], net[3]
            before = place(first.file, (*first.path, "network"))
            what = f"`{second.values['network']}` overlaps `{first.values['network']}` of {before}"
            fix = "networks of one list never overlap: split the wider one"
            sheet.mistake((*second.path, "network"), what, fix, second.file)
        else:
            wide = net


def _span(row: Row) -> tuple[int, int, int, Row]:
    """(version, first address, minus the last address, row): sorted, a network stands before those inside it."""
    net = ipaddress.ip_network(row.values["network"])
    return net.version, int(net.network_address), -int(net.broadcast_address), row


def _check_keys(sheet: Sheet, place: Place) -> None:
    """A key opens one account. `env:` and `file:` are compared by reference, all others by hash."""
    owner: dict[str, tuple[Row, str]] = {}
    for row in _rows(sheet, "keys"):
        for key in ("key1", "key2"):
            value = row.values.get(key)
            if value is None:
                continue
            first, where = owner.setdefault(value, (row, key))
            if first is not row:
                what = f"the same key stands in {place(first.file, (*first.path, where))}"
                sheet.mistake((*row.path, key), what, "a key opens one account: make another", row.file)


def _check_servable(sheet: Sheet) -> None:
    if sheet.lost:
        return
    regions = {
        row.values["name"]: Region(row.values["name"], UNKNOWN, "", row.values.get("zones", ()))
        for row in _rows(sheet, "region")
        if "name" in row.values
    }
    serving: dict[str, set[str]] = {}
    for row in _rows(sheet, "upstream"):
        for model in row.values.get("models", ()):
            serving.setdefault(model, set()).add(row.values.get("region", ""))
    location = {(row.file, row.path): row.values.get("location") for row in _rows(sheet, "account")}
    candidates: dict[tuple[Any, Any], frozenset[str]] = {}
    for row in _rows(sheet, "deployment"):
        model, sku = _model(row, "model"), row.values.get("sku", "Standard")
        here = location.get((row.file, row.path[:2]))
        if model is None or here is None or here not in regions or ("sku" not in row.values and row.struct is None):
            continue
        allowed = candidates.get((sku, here))
        if allowed is None:
            allowed = candidates[sku, here] = candidate_regions(sku, here, regions)
        if serving.get(model, frozenset()).isdisjoint(allowed):
            _not_servable(sheet, row, model, serving, allowed)


def _not_servable(sheet: Sheet, row: Row, model: str, serving: dict[str, set[str]], allowed: frozenset[str]) -> None:
    sku = row.values.get("sku", "Standard")
    if model not in serving:
        what, fix = f"no upstream lists `{model}`", sheet.suggest(model, serving, "models that upstreams list")
        sheet.mistake((*row.path, "model"), what, fix, row.file)
        return
    where = list_names(sorted(serving[model]), "regions where it is served")
    reach = list_names(sorted(allowed), f"candidate regions of `{sku}` here") if allowed else "its region has no zone"
    fix = f"{where}; change `sku` or `location`, or add an upstream"
    sheet.mistake((*row.path, "sku"), f"no upstream can serve `{model}` ({reach})", fix, row.file)
