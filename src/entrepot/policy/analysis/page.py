"""Packs as a page that a person reads and signs off: all that sets, rules and invariants say, in the files' order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from entrepot.policy.analysis.show import iso, period
from entrepot.policy.model import Condition, Invariant, Member, Pack, Rule, Set, Source, in_effect


def page(packs: Sequence[Pack]) -> Iterator[str]:
    """The lines of the page."""
    for pack in packs:
        yield ""
        yield f"{pack.id}: {pack.about or 'no description'}"
        yield from _indented(2, _owner(pack.owner), _source(pack.source), _state(pack.as_of, pack.review))
        for each in pack.sets:
            yield from _set(each)
        for rule in pack.rules:
            yield from _rule(rule)
        for invariant in pack.invariants:
            yield from _invariant(invariant)


def _set(each: Set) -> Iterator[str]:
    complete = "" if each.complete else ", not complete"
    dated = "" if each.from_ms is None and each.until_ms is None else f", {period(each.from_ms, each.until_ms)}"
    yield f"  @{each.name}: {len(each.members)} {each.kind}{complete}{dated}"
    yield from _indented(
        4,
        *_wrapped(_member(member) for member in each.members),
        f"leaves out knowingly: {', '.join(each.excludes)}" if each.excludes else "",
        _source(each.source),
        _state(each.as_of, each.review),
        f"note: {each.note}" if each.note else "",
    )


def _rule(rule: Rule) -> Iterator[str]:
    yield f"  {rule.effect} {rule.id}, {rule.status}, {_decides(rule)}"
    yield from _indented(
        4,
        *_conditions(rule),
        'unknown = "pass": what cannot be told is let through' if rule.unknown_passes else "",
        f"code: {rule.code}" if rule.code else "",
        *(f"reason ({language}): {text}" for language, text in sorted(rule.reason.items())),
        f"clause: {rule.clause}" if rule.clause else "no clause",
        _source(rule.source),
        f"note: {rule.note}" if rule.note else "",
    )


def _decides(rule: Rule) -> str:
    """When the rule is at work, which its own dates alone do not say."""
    written = (
        "" if rule.from_ms is None and rule.until_ms is None else f" (dated {period(rule.from_ms, rule.until_ms)})"
    )
    effect = in_effect(rule)
    if effect is None:
        return f"decides never{written}"
    if rule.status == "stayed" and rule.revives_ms is not None:
        return f"revives {iso(rule.revives_ms)}{written}, decides {period(*effect)}"
    return period(*effect)


def _conditions(rule: Rule) -> Iterator[str]:
    for word, conditions in (("when", rule.when), ("any of", rule.any), *(("unless", group) for group in rule.unless)):
        if conditions:
            yield f"{word} {_asked(conditions)}"
    if not rule.when and not rule.any:
        yield "whatever the facts"


def _invariant(invariant: Invariant) -> Iterator[str]:
    yield f"  {'never' if invariant.want == 'refuse' else 'always'} {invariant.id}: {invariant.claim}"
    yield from _indented(4, *_conditions(invariant.scope), _dated(invariant.scope))


def _dated(rule: Rule) -> str:
    return "" if rule.from_ms is None and rule.until_ms is None else period(rule.from_ms, rule.until_ms)


def _asked(conditions: Iterable[Condition]) -> str:
    return "; ".join(f"{one.fact} = {', '.join(one.values)}" for one in conditions)


def _member(member: Member) -> str:
    dated = member.from_ms is not None or member.until_ms is not None
    return member.value + (f" ({period(member.from_ms, member.until_ms)})" if dated else "")


def _owner(owner: str | None) -> str:
    return f"owner: {owner}" if owner else ""


def _source(source: Source | None) -> str:
    if source is None:
        return ""
    retrieved = f", retrieved {source.retrieved}" if source.retrieved else ""
    return f"source: {source.title}" + (f", {source.url}" if source.url else "") + retrieved


def _state(as_of: str | None, review: str | None) -> str:
    return "; ".join(filter(None, (f"as of {as_of}" if as_of else "", f"review by {review}" if review else "")))


def _wrapped(items: Iterable[str], width: int = 112) -> Iterator[str]:
    line = ""
    for item in items:
        if line and len(line) + len(item) + 2 > width:
            yield f"{line},"
            line = item
        else:
            line = f"{line}, {item}" if line else item
    yield line


def _indented(by: int, *lines: str) -> Iterator[str]:
    """The lines that say something."""
    yield from (" " * by + line for line in lines if line)
