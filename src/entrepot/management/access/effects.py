"""What an approved proposal makes of its subject: body in, body out. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from entrepot.errors import Detail
from entrepot.management.access.instants import NEVER, milliseconds
from entrepot.management.access.narrowing import grants
from entrepot.management.access.proposal import refused

Properties: TypeAlias = Mapping[str, Any]
_CHANGE: Final = "properties.change"
_REINSTATED: Final[Mapping[str, str]] = {"kyc": "approved", "screening": "clear"}


def check_change(kind: str, subject: str, properties: Properties, change: Properties, now_ms: int) -> None:
    """Raises Error (400) with every mistake: what no Shape says about a change of `subject`, a kind of row."""
    problems = list(_CHECKS[kind](subject, properties, change, now_ms))
    if problems:
        raise refused(problems)


def _wrong(key: str, message: str) -> Detail:
    return Detail("InvalidProperty", message, f"{_CHANGE}.{key}" if key else _CHANGE)


def _only(change: Properties, *known: str) -> list[Detail]:
    names = ", ".join(f"`{name}`" for name in known) or "none"
    return [_wrong(key, f"unknown key `{key}`; keys here: {names}") for key in change if key not in known]


def _eligibility(_subject: str, properties: Properties, change: Properties, now_ms: int) -> list[Detail]:
    problems = _only(change, "name", "expires", "grounds")
    if not isinstance(change.get("name"), str):
        problems.append(_wrong("name", "expected the name of an eligibility, such as `openai@cloud`"))
    grounds = change.get("grounds")
    if not isinstance(grounds, str) or not grounds.strip():
        problems.append(_wrong("grounds", "expected a text: the evidence or clause that it rests on"))
    end: float = NEVER
    if "expires" in change:
        try:
            end = milliseconds(str(change["expires"]))
        except ValueError as error:
            problems.append(_wrong("expires", str(error)))
        if end <= now_ms:
            problems.append(_wrong("expires", "this instant is past"))
    if not problems and grants(properties).get(str(change["name"]), 0) >= end:
        problems.append(_wrong("name", "the organization has this eligibility already, until then or longer"))
    return problems


def _egress(_subject: str, _properties: Properties, change: Properties, _now_ms: int) -> list[Detail]:
    problems = _only(change, "egress")
    if not isinstance(change.get("egress"), list):
        problems.append(_wrong("egress", "expected an array with all attested networks; the one that is there goes"))
    return problems


def _residency(_subject: str, _properties: Properties, change: Properties, _now_ms: int) -> list[Detail]:
    problems = _only(change, "residency")
    if not isinstance(change.get("residency"), list):
        problems.append(_wrong("residency", "expected an array of territories and zones; empty: anywhere"))
    return problems


def _reinstatement(subject: str, properties: Properties, change: Properties, _now_ms: int) -> list[Detail]:
    if subject == "account":
        problems = _only(change)
        if properties.get("state") != "suspended":
            problems.append(_wrong("", "the account is not suspended, so there is nothing to reinstate"))
        return problems
    problems = _only(change, "kyc", "kycExpires", "screening")
    for key, value in _REINSTATED.items():
        if key in change and change[key] != value:
            problems.append(_wrong(key, f"a reinstatement sets it to `{value}`; write anything else directly"))
    if not problems and not any(change.get(key, properties.get(key)) != properties.get(key) for key in _REINSTATED):
        problems.append(_wrong("", 'it changes nothing; write `"kyc": "approved"` or `"screening": "clear"`'))
    return problems


_CHECKS: Final[Mapping[str, Callable[[str, Properties, Properties, int], list[Detail]]]] = {
    "eligibility": _eligibility,
    "egress": _egress,
    "residency": _residency,
    "reinstatement": _reinstatement,
}


def applied(proposal: Properties, proposal_id: str, subject: str, properties: Properties) -> dict[str, Any]:
    """The properties of the subject, of kind `subject`, once an approved proposal has been applied to them."""
    change: Properties = proposal["change"]
    after = dict(properties)
    if proposal["kind"] == "eligibility":
        entry = {key: change[key] for key in ("name", "expires", "grounds") if key in change}
        kept = [each for each in after.get("eligibility", ()) if _name(each) != change["name"]]
        after["eligibility"] = [*kept, entry | {"proposal": proposal_id}]
    elif proposal["kind"] == "reinstatement" and subject == "account":
        after["state"] = "active"
        after.pop("suspension", None)
    else:
        after |= change
        if "kyc" in change:
            after["kycReview"] = {"reviewer": proposal["decidedBy"], "reviewedAt": proposal["decidedAt"]}
            if "kycExpires" not in change:
                after.pop("kycExpires", None)  # it belonged to the approval before
    return after


def _name(entry: Any) -> Any:
    return entry.get("name") if isinstance(entry, dict) else entry
