"""Looks at packs that load for what is probably not meant: lint, coverage of cases, lists that have drifted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal

import msgspec

from entrepot.policy.analysis.cases import run_cases, untested
from entrepot.policy.analysis.diagram import escapes
from entrepot.policy.analysis.prove import prove
from entrepot.policy.analysis.segments import during, segments
from entrepot.policy.analysis.show import example
from entrepot.policy.analysis.space import Space
from entrepot.policy.model import Pack, Place, Rule, Set

Severity = Literal["error", "warning", "note"]

_CHINA: Final = ("HK", "MO", "TW")


class Finding(msgspec.Struct, frozen=True):
    """`error`: the packs do not do what they say; `warning`: probably not meant; `note`: to be known."""

    severity: Severity
    place: Place
    subject: str
    what: str
    fix: str

    def __str__(self) -> str:
        where = self.place.file if self.place.line is None else f"{self.place.file}:{self.place.line}"
        return f"{where}: {self.severity}: `{self.subject}` {self.what}; {self.fix}"


def check(packs: Sequence[Pack], today: str | None = None) -> tuple[Finding, ...]:
    """All findings, errors first. `today` is an ISO date, for what is due for review."""
    found = [
        *(finding for pack in packs for finding in _pack(pack, today)),
        *_cases(packs),
        *_invariants(packs),
        *_reach(packs),
    ]
    severities = ("error", "warning", "note")
    return tuple(sorted(found, key=lambda one: (severities.index(one.severity), one.place.file, one.place.line or 0)))


def _pack(pack: Pack, today: str | None) -> Iterator[Finding]:
    if pack.review and today and pack.review <= today:
        yield Finding("warning", pack.place, pack.id, f"was due for review on {pack.review}", "review it")
    for each in pack.sets:
        yield from _set(pack, each, today)
    for rule in pack.rules:
        yield from _rule(pack, rule)


def _set(pack: Pack, each: Set, today: str | None) -> Iterator[Finding]:
    if not each.complete:
        yield Finding("note", each.place, each.name, "is not complete", "compare it with its source: `check --against`")
    if not (each.source or pack.source):
        yield Finding("warning", each.place, each.name, "has no source", "say where the list comes from")
    if each.review and today and each.review <= today and each.review != pack.review:
        yield Finding("warning", each.place, each.name, f"was due for review on {each.review}", "review it")
    listed = {member.value for member in each.members} | set(each.excludes)
    silent = [code for code in _CHINA if code not in listed]
    if "CN" in listed - set(each.excludes) and silent:
        fix = "list them, or say `excludes = [" + ", ".join(f'"{code}"' for code in silent) + "]`"
        yield Finding("warning", each.place, each.name, f"has CN and takes no position on {', '.join(silent)}", fix)


def _rule(pack: Pack, rule: Rule) -> Iterator[Finding]:
    if not (rule.source or pack.source):
        yield Finding("warning", rule.place, rule.id, "has no source", "say where the rule comes from")
    if not rule.clause:
        yield Finding(
            "warning", rule.place, rule.id, "has no clause", "say which words of its source it puts into force"
        )
    if rule.effect == "forbid" and not rule.reason:
        yield Finding("note", rule.place, rule.id, "gives no reason", "say what the client is told")
    if rule.unknown_passes:
        fix = 'drop `unknown = "pass"`, or accept it'
        yield Finding("warning", rule.place, rule.id, "lets calls through of which the facts are unknown", fix)
    if rule.effect == "forbid" and not (rule.when or rule.any or rule.unless):
        yield Finding("warning", rule.place, rule.id, "refuses every call: it names no fact", "name facts in `when`")
    asked = {condition.fact for condition in rule.when}
    if rule.effect == "permit" and not asked & {"target.provider", "account.channel"}:
        fix = "name `target.provider` or `account.channel` in `when`"
        yield Finding("warning", rule.place, rule.id, "is open in both provider and channel", fix)
    if rule.status in {"proposed", "announced_not_enforced", "rescinded"} or (
        rule.status == "stayed" and rule.revives_ms is None
    ):
        yield Finding("note", rule.place, rule.id, f"does not decide: it is {rule.status}", "nothing, if that is so")


def _cases(packs: Sequence[Pack]) -> Iterator[Finding]:
    for rule, want in untested(packs):
        yield Finding("warning", rule.place, rule.id, f"has no case that wants `{want}`", "add one")
    for verdict in run_cases(packs):
        if not verdict.passed:
            fix = (
                f"it comes out otherwise with {told(verdict.contrary)}"
                if verdict.contrary
                else "it comes out otherwise"
            )
            yield Finding(
                "error", verdict.case.place, verdict.case.rule, f"has a case that fails: {fix}", "mend either"
            )


def told(facts: Mapping[str, Sequence[str]], most: int = 6) -> str:
    """Facts as `a = x, y; b = z`, long lists cut short."""
    parts = []
    for name, values in facts.items():
        rest = f" and {len(values) - most} more" if len(values) > most else ""
        parts.append(f"{name} = {', '.join(values[:most])}{rest}")
    return "; ".join(parts)


def _invariants(packs: Sequence[Pack]) -> Iterator[Finding]:
    places = {each.id: each.place for pack in packs for each in pack.invariants}
    for proof in prove(packs):
        if not proof.proved:
            what = f"does not hold for one call: {example(proof.facts)}; by {', '.join(proof.rules) or 'no rule'}"
            yield Finding("error", places[proof.id], proof.id, what, "mend the rules or the claim")
        elif proof.vacuous:
            yield Finding("warning", places[proof.id], proof.id, "is about no call at all", "mend its scope")


def _reach(packs: Sequence[Pack]) -> Iterator[Finding]:
    """Rules that can never match, and rules without which no call would be decided otherwise."""
    space = Space([packs])
    stretches = {segment.masks[0] for segment in segments(space.times)}
    silent = {rule.id for pack in packs for rule in pack.rules} - set(space.rules)
    for rule in sorted((rule for pack in packs for rule in pack.rules), key=lambda rule: rule.id):
        bits = space.bits_of(rule.id)
        if rule.id in silent:
            if rule.status in {"in_force", "contract_term"} or rule.revives_ms is not None:
                yield Finding("warning", rule.place, rule.id, "can never match", "mend its dates or its facts")
            continue
        alive = [mask for mask in stretches if mask & bits]
        if not any(_escapes(space, mask & bits, 0) for mask in alive):
            yield Finding("warning", rule.place, rule.id, "can never match", "mend its facts: they exclude each other")
        elif not any(_escapes(space, mask & bits, _covering(space, rule, mask) & ~bits) for mask in alive):
            yield Finding(
                "warning", rule.place, rule.id, "changes no decision: other rules cover it", "drop it, or mend it"
            )


def _covering(space: Space, rule: Rule, mask: int) -> int:
    """What can make a rule superfluous: other forbids, and for a permit all else."""
    return mask & space.forbid if rule.effect == "forbid" else mask


def _escapes(space: Space, bits: int, others: int) -> bool:
    terms = (1 << at for at in range(bits.bit_length()) if bits >> at & 1)
    return any(escapes(space.dimensions, term, others) for term in terms)


def drift(known: Set, fresh: Sequence[str], at_ms: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a fresh list has that the set lacks at an instant, and the other way round."""
    here = {member.value for member in known.members if during(member.from_ms, member.until_ms, at_ms)}
    return tuple(sorted(set(fresh) - here)), tuple(sorted(here - set(fresh)))
