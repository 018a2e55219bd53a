"""Proves usage against the entries: added up once more another way, with nothing kept apart and nothing left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from typing import Any, NamedTuple

from entrepot.ledger.entries import plain
from entrepot.ledger.verify import ADMITTED, REFUSED
from entrepot.projections import refusals as refused
from entrepot.projections import usage as used
from entrepot.projections.follow import Logs
from entrepot.projections.refusals import Refusals
from entrepot.projections.usage import Sums, Usage

TOKENS = ("prompt", "completion")


class Checked(NamedTuple):
    """`groupings` are so many ways of adding up; no findings: they all come to what the entries say."""

    calls: int
    refusals: int
    groupings: int
    findings: list[str]


def check(logs: Logs) -> Checked:
    usage, refusals, naive = Usage(), Refusals(), Counter[str]()
    for read in logs:
        usage.take(read)
        refusals.take(read)
        naive.update(_said(read.entry))
    usage.finish()
    findings = [
        *(f"`{place}` was admitted and has no outcome" for place in usage.without_outcome),
        *(f"an outcome of `{place}` has no decision, or is its second" for place in usage.without_decision),
    ]
    groupings = 0
    for by in _subsets(used.DIMENSIONS):
        groupings += 1
        findings += _differences(by, _counts(used.grouped(usage.cells, by).values()), naive)
    for by in _subsets(refused.DIMENSIONS):
        groupings += 1
        number = sum(refused.grouped(refusals.cells, by).values())
        findings += _differences(by, {"refusals": number}, naive)
    return Checked(naive["calls"], naive["refusals"], groupings, findings)


def _subsets(names: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for size in range(len(names) + 1):
        yield from combinations(names, size)


def _counts(groups: Iterable[Sums]) -> dict[str, int]:
    sums = Sums()
    for each in groups:
        sums.add(each)
    return {name: getattr(sums, name) for name in used.COUNTS if name not in {"open", "unpriced"}}


def _differences(by: tuple[str, ...], counts: Mapping[str, int], naive: Mapping[str, int]) -> Iterator[str]:
    for name, number in counts.items():
        if number != naive[name]:
            yield f"by {', '.join(by) or 'nothing'}: {name} is {number}, the entries say {naive[name]}"


def _said(entry: bytes) -> Mapping[str, int]:
    """What one entry adds to each sum, read as plain JSON."""
    if entry.startswith(ADMITTED):
        return {"calls": 1}
    if entry.startswith(REFUSED):
        return {"refusals": 1}
    if entry.startswith(refused.AGGREGATED):
        return {"refusals": plain(entry)["refusals"]["count"]}
    return _spent(plain(entry)["outcome"]) if entry.startswith(used.OUTCOME) else {}


def _spent(outcome: dict[str, Any]) -> Mapping[str, int]:
    said: Counter[str] = Counter({outcome["result"]: 1})
    tries = [leg["usage"] for leg in outcome["legs"] if "usage" in leg]
    for usage in tries:
        said["failed_legs"] += 1
        for kind in TOKENS:
            said[f"{kind}_failed_legs"] += usage[kind]
    for usage in [*tries, *([outcome["usage"]] if "usage" in outcome else [])]:
        said["cached"] += usage["cached"]
        said["reasoning"] += usage["reasoning"]
        for kind in TOKENS:
            said[f"{kind}_{usage['source']}"] += usage[kind]
    return said
