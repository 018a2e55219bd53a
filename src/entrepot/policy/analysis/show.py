"""Analysis in words: boxes of facts as sentences, instants as ISO 8601."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Final

from entrepot.policy.analysis.diagram import Box
from entrepot.policy.analysis.space import OWNERS, YES, Dimension, levels
from entrepot.policy.facts import FACTS, OTHER
from entrepot.policy.model import Set
from entrepot.resources.model import UNKNOWN

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LISTED: Final = 8


def iso(at_ms: int) -> str:
    """`2024-07-09T00:00:00Z`, with milliseconds where there are any. Far dates are the farthest that can be written."""
    try:
        text = (_EPOCH + timedelta(milliseconds=at_ms)).isoformat(timespec="milliseconds")
    except OverflowError:
        return "9999-12-31T23:59:59Z" if at_ms > 0 else "0001-01-01T00:00:00Z"
    return text.replace(".000+", "+").replace("+00:00", "Z")


def milliseconds(text: str) -> int:
    """The instant of an ISO 8601 text with its offset. Raises `ValueError`, saying how to write it."""
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"`{text}` is not an instant; write it like `2024-07-09T00:00:00Z`") from error
    if instant.tzinfo is None:
        raise ValueError(f"`{text}` has no offset; write it like `2024-07-09T00:00:00Z`")
    return (instant - _EPOCH) // timedelta(milliseconds=1)


def period(from_ms: int | None, until_ms: int | None) -> str:
    start = "" if from_ms is None else f"from {iso(from_ms)}"
    end = "" if until_ms is None else f"until {iso(until_ms)}"
    return f"{start} {end}".strip() or "at all times"


def sentence(box: Box, sets: Iterable[Set]) -> str:
    """`direct calls from HK to provider openai`: every combination of facts in the box."""
    lists = {each.name: frozenset(member.value for member in each.members) for each in sets}
    said = {dimension.label: _values(dimension, ats, lists) for dimension, ats in box if not dimension.part}
    words = [
        said.pop("account.channel", ""),
        said.pop("operation", ""),
        "calls",
        *(f"{word} {said.pop(fact)}" for fact, word in _PREPOSITIONS.items() if fact in said),
    ]
    rest = [f"{label} is {values}" for label, values in said.items()]
    rest += [_part(dimension, ats) for dimension, ats in box if dimension.part]
    return " ".join(filter(None, words)) + (f", where {' and '.join(rest)}" if rest else "")


def example(facts: Iterable[tuple[str, Sequence[str]]]) -> str:
    """One call of a box, as `a = x; org.flag has y`: the first value of each fact, and the known before the unknown."""
    said = []
    for label, values in facts:
        value = next((value for value in values if value != UNKNOWN), UNKNOWN)
        fact, has, name = label.partition(" has ")
        if label.startswith(f"{OWNERS} in "):
            said.append(f"{label} hold {'an unknown share' if value == UNKNOWN else value}")
        elif has:
            said.append(f"{fact} {'has' if value == YES else 'lacks'} {name}")
        else:
            said.append(f"{label} = {'any other' if value == OTHER else value}")
    return "; ".join(said) or "any call"


def _part(dimension: Dimension, ats: Sequence[int]) -> str:
    """`org.flag has x`, `org.flag lacks x`, `owners in @s may hold more than 50 %`."""
    values = [value for at in ats for value in dimension.choices[at].values]
    if dimension.fact == OWNERS:
        return f"owners in {dimension.part} {_held(values)}"
    return f"{dimension.fact} {'has' if values == [YES] else 'lacks'} {dimension.part}"


def _held(values: Sequence[str]) -> str:
    """The states of knowledge that share one bound by that bound, others one by one."""
    everything = levels()
    chosen = {everything[value] for value in values}
    for share, words in _SHARES.items():
        bounds = set(everything.values())
        if chosen == {one for one in bounds if one[1] >= share}:
            return f"may hold {words}"
        if chosen == {one for one in bounds if one[0] >= share}:
            return f"hold {words}"
        if chosen == {one for one in bounds if one[1] < share}:
            return f"do not hold {words}"
        if chosen == {one for one in bounds if one[0] < share}:
            return f"are not known to hold {words}"
    return f"hold {' or '.join(values)}"


_SHARES: Final[Mapping[Fraction, str]] = {
    Fraction(1, 4): "25 % or more",
    Fraction(1, 2): "50 % or more",
    Fraction(1): "more than 50 %",
}

_PREPOSITIONS: Final[Mapping[str, str]] = {
    "origin.territory": "from",
    "origin.network": "over",
    "org.territory": "by organizations of",
    "target.provider": "to provider",
    "target.model": "for model",
    "target.region": "in region",
}


def _values(dimension: Dimension, ats: Sequence[int], lists: Mapping[str, frozenset[str]]) -> str:
    chosen = {value for at in ats for value in dimension.choices[at].values}
    everything = {value for choice in dimension.choices for value in choice.values}
    known = chosen - {UNKNOWN}
    if OTHER in chosen:
        text = _but(everything - chosen - {UNKNOWN}, dimension.fact, lists)
    elif FACTS[dimension.fact].kind == "closed" and len(chosen) * 2 > len(everything) > 3:
        return "all but " + ", ".join(sorted(everything - chosen))
    else:
        text = _list(known, lists)
    if UNKNOWN in chosen:
        return f"{text} or unknown" if known else UNKNOWN
    return f"known {text}" if OTHER in chosen and UNKNOWN in everything else text


def _but(excluded: set[str], fact: str, lists: Mapping[str, frozenset[str]]) -> str:
    if not excluded:
        return "anywhere" if fact.endswith("territory") else "any"
    where = "territories outside" if fact.endswith("territory") else "any but"
    return f"{where} {_list(excluded, lists)}"


def _list(values: set[str], lists: Mapping[str, frozenset[str]]) -> str:
    for name, members in lists.items():
        if len(values) > 1 and values == members:
            return f"@{name}"
    if len(values) <= _LISTED:
        return ", ".join(sorted(values))
    return f"{', '.join(sorted(values)[: _LISTED - 2])} and {len(values) - _LISTED + 2} more"
