"""Proposed policy releases: read, validated with everything that `check` knows, and what they would change."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec

from entrepot.errors import Code, Detail, Error
from entrepot.ledger.read import Read, entries_of, folders_of
from entrepot.ledger.verify import Unproved
from entrepot.management.access.instants import iso
from entrepot.policy import PolicyInvalid, Program, parse, shipped, shipped_names
from entrepot.policy import compile as compile_packs
from entrepot.policy.analysis.check import check
from entrepot.policy.analysis.diff import diff
from entrepot.policy.analysis.space import Space
from entrepot.policy.analysis.touched import touched
from entrepot.policy.model import Pack
from entrepot.policy.shipped import PREFIX
from entrepot.projections.replay import Replay
from entrepot.projections.window import DAY_MS, Window
from entrepot.resources.model import PackSource, World

# So much of each list stands in a report; the counts beside it are of all.
LISTED: Final = 200
NAMED: Final = 1_000
REPLAY_DAYS: Final = 30
# An answer waits for the replay, so it reads no more than that, the newest logs first.
REPLAYED_ENTRIES: Final = 1_000_000
_PACKS: Final = "properties.change.packs"


def pack_sources(packs: Any) -> tuple[PackSource, ...]:
    """The packs of a proposal: `"entrepot:NAME"`, `{name, text}` or `{name, data}` (base64). Raises Error (400)."""
    if not isinstance(packs, list) or not packs:
        raise _refused([Detail("InvalidProperty", 'expected an array of packs; write `["entrepot:base"]`', _PACKS)])
    found: list[PackSource] = []
    problems: list[Detail] = []
    for at, pack in enumerate(packs):
        try:
            source = _source(pack)
        except ValueError as error:
            problems.append(Detail("InvalidProperty", str(error), f"{_PACKS}[{at}]"))
            continue
        if any(source.name == other.name for other in found):
            problems.append(Detail("InvalidProperty", f"`{source.name}` stands here twice", f"{_PACKS}[{at}].name"))
        found.append(source)
    if problems:
        raise _refused(problems)
    return tuple(found)


def _source(pack: Any) -> PackSource:
    if isinstance(pack, str):
        return _shipped(pack)
    name = pack.get("name") if isinstance(pack, dict) else None
    if not isinstance(name, str) or not name.strip() or len(name) > 200:
        raise ValueError('expected a pack; write `"entrepot:NAME"` or `{"name": "…", "text": "…"}`')
    if unknown := sorted(pack.keys() - {"name", "text", "data"}):
        raise ValueError(f"unknown key `{unknown[0]}`; a pack has `name`, and `text` or `data`")
    text, data = pack.get("text"), pack.get("data")
    if text is None and data is None:
        return _shipped(name)
    if name.startswith(PREFIX):
        raise ValueError(f"`{name}` is the name of a shipped pack; give a pack of your own another name")
    if isinstance(text, str) and data is None:
        return PackSource(name, text.encode("utf-8", "surrogatepass"))
    if isinstance(data, str) and text is None:
        try:
            decoded = base64.b64decode(data, validate=True)
            decoded.decode()
        except UnicodeDecodeError:
            raise ValueError("`data` is not UTF-8; save the pack as UTF-8") from None
        except (binascii.Error, ValueError):
            raise ValueError("`data` is not base64") from None
        return PackSource(name, decoded)
    raise ValueError("give the pack's TOML either as `text`, a string, or as `data`, in base64")


def _shipped(name: str) -> PackSource:
    if name not in shipped_names():
        raise ValueError(f"no pack `{name}` is shipped; shipped packs: {', '.join(shipped_names())}")
    return shipped(name)


def compiled(sources: Sequence[PackSource], today: str) -> tuple[Program, list[dict[str, Any]]]:
    """The program, and what `check` warns of and notes. Raises Error (400) with every problem and every failed case."""
    try:
        packs = parse(sources)
    except PolicyInvalid as invalid:
        details = [Detail("InvalidPolicy", str(problem), _PACKS) for problem in invalid.problems]
        raise _refused(details) from invalid
    findings = check(packs, today)
    errors = [Detail("InvalidPolicy", str(one), _PACKS) for one in findings if one.severity == "error"]
    if errors:
        raise _refused(errors)
    return compile_packs(packs), [{"severity": one.severity, "message": str(one)} for one in findings]


def _refused(details: Sequence[Detail]) -> Error:
    message = details[0].message if len(details) == 1 else f"the policy release has {len(details)} problems"
    return Error(Code.BAD_REQUEST, message, name="InvalidPolicyRelease", param=_PACKS, details=tuple(details))


def difference(old: Sequence[Pack], new: Sequence[Pack], world: World, at_ms: int) -> dict[str, Any]:
    """What comes out otherwise, by facts and by account, at all times; `affectedAccounts` from `at_ms` on."""
    found = diff(old, new)
    hit = (
        []
        if found.empty
        else [one for one in touched(Space([old, new]), world) if one.until_ms is None or one.until_ms > at_ms]
    )
    affected = _by_account(hit)
    return {
        "counts": found.counts,
        "changes": [
            {
                "text": one.text,
                "direction": one.direction,
                "from": _iso(one.from_ms),
                "until": _iso(one.until_ms),
                "combinations": one.count,
                "rules": list(one.rules),
            }
            for one in found.changes[:LISTED]
        ],
        "changesInAll": len(found.changes),
        "affectedAccounts": affected[:NAMED],
        "affectedInAll": len(affected),
    }


def _by_account(hit: Iterable[Any]) -> list[dict[str, Any]]:
    accounts: dict[str, dict[str, set[str]]] = {}
    for one in hit:
        accounts.setdefault(one.account, {}).setdefault(one.direction, set()).add(one.deployment)
    return [
        {"account": name, "directions": {way: sorted(each) for way, each in sorted(ways.items())}}
        for name, ways in sorted(accounts.items())
    ]


def replayed(program: Program, ledgers: Sequence[Path], in_force: Program, now_ms: int) -> dict[str, Any]:
    """What the release would have made of the recorded decisions of the last `REPLAY_DAYS` days in these folders."""
    found = Replay(program, Window(now_ms - REPLAY_DAYS * DAY_MS))
    found.learn(in_force)
    problems: list[str] = []
    reads = _newest_first(ledgers, problems)
    read = 0
    for entry in islice(reads, REPLAYED_ENTRIES):
        read += 1
        try:
            found.take(entry)
        except msgspec.DecodeError as error:
            problems.append(f"`{entry.origin}/{entry.number}` cannot be read: {error}")
    flips = found.sorted_flips()
    totals: dict[str, int] = {}
    for flip in flips:
        totals[flip.direction] = totals.get(flip.direction, 0) + flip.calls
    return {
        "days": REPLAY_DAYS,
        "decided": found.decided,
        "complete": read < REPLAYED_ENTRIES and not problems,
        "problems": problems[:LISTED],
        "totals": totals,
        "flips": [msgspec.to_builtins(flip) for flip in flips[:LISTED]],
        "flipsInAll": len(flips),
    }


def _newest_first(ledgers: Iterable[Path], problems: list[str]) -> Iterator[Read]:
    for ledger in ledgers:
        for log in reversed(folders_of(ledger)):
            try:
                yield from entries_of(log)
            except (Unproved, OSError) as error:
                problems.append(f"`{log.name}` cannot be read to its end: {error}")


def stored(sources: Iterable[PackSource]) -> list[Mapping[str, str]]:
    """Packs as a row holds them: with their text, also shipped ones, which another version of Entrepot may change."""
    return [{"name": source.name, "text": source.data.decode()} for source in sources]


def _iso(at_ms: int | None) -> str | None:
    return None if at_ms is None else iso(at_ms)
