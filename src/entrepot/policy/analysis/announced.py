"""Rules that take effect later, and the deployments that they will refuse."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from entrepot.policy.analysis.diff import REFUSED
from entrepot.policy.analysis.space import Space
from entrepot.policy.analysis.touched import touched
from entrepot.policy.model import Pack, in_effect
from entrepot.resources.model import World

_DAY_MS = 86_400_000


class Announced(msgspec.Struct, frozen=True):
    """From `from_ms` on the rule refuses some calls of the deployment that are served until then."""

    rule: str
    from_ms: int
    days_left: int
    account: str
    deployment: str


def announced(packs: Sequence[Pack], world: World, now_ms: int) -> Iterator[Announced]:
    for pack in packs:
        for rule in pack.rules:
            interval = in_effect(rule)
            if rule.effect != "forbid" or interval is None or interval[0] is None or interval[0] <= now_ms:
                continue
            start = interval[0]
            days = -(-(start - now_ms) // _DAY_MS)
            without = [_without(each, rule.id) for each in packs]
            hit = {
                (one.account, one.deployment)
                for one in touched(Space([without, packs]), world)
                if one.direction == REFUSED
            }
            yield from (Announced(rule.id, start, days, *names) for names in sorted(hit))


def _without(pack: Pack, rule: str) -> Pack:
    rules = tuple(one for one in pack.rules if one.id != rule)
    cases = tuple(case for case in pack.cases if case.rule != rule)
    return msgspec.structs.replace(pack, rules=rules, cases=cases)
