"""A proposal as a document: what may be proposed, its states, and who may decide. Pure.

States: `proposed` → `approved`, `rejected` or `withdrawn`; none of these ever changes again. An approved one is applied
at once, a policy release perhaps at a later instant, `appliesAt`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

from entrepot.errors import Code, Detail, Error
from entrepot.management.access.instants import iso, milliseconds

Verb = Literal["approve", "reject", "withdraw"]

STATES: Final[Mapping[Verb, str]] = {"approve": "approved", "reject": "rejected", "withdraw": "withdrawn"}
RELEASES: Final = "/providers/Entrepot.Access/policyReleases"
GUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_FAR_MS: Final = 5 * 366 * 86_400_000
_REASON: Final = 2_000
_ASKED: Final = ("kind", "subject", "change", "reason", "effectiveAt")


class About(NamedTuple):
    """`subjects`: the kinds of rows that it may be about. `tenant`: whether the account's own people may propose it."""

    subjects: tuple[str, ...]
    tenant: bool = False


KINDS: Final[Mapping[str, About]] = {
    "policyRelease": About(()),
    "eligibility": About(("organization",)),
    "egress": About(("account",), tenant=True),
    "residency": About(("account",), tenant=True),
    "reinstatement": About(("account", "organization")),
}


class Proposed(NamedTuple):
    """A request, read: its form is right; whether its subject exists and its change fits is asked later."""

    kind: str
    subject: str
    change: dict[str, Any]
    reason: str
    effective_ms: int | None


class Person(NamedTuple):
    """Who acts: the principal, and the person that it belongs to where that is on record."""

    principal: str
    name: str
    owner: str | None = None

    def same(self, other: Mapping[str, Any]) -> bool:
        """Whether that is the same person as far as is known: the same principal, or one of the same owner."""
        if self.principal == other.get("principal"):
            return True
        owner = other.get("owner")
        return self.owner is not None and isinstance(owner, str) and plain_name(self.owner) == plain_name(owner)

    def plain(self) -> dict[str, str]:
        return {"principal": self.principal, "name": self.name} | ({"owner": self.owner} if self.owner else {})


def plain_name(name: str) -> str:
    """A name as people compare it: neither case nor spaces make it another's."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def read(properties: Mapping[str, Any], now_ms: int) -> Proposed:
    """Raises Error (400) with every mistake in the form of a proposal."""
    problems: list[Detail] = []

    def wrong(field: str, message: str) -> None:
        problems.append(Detail("InvalidProperty", message, f"properties.{field}"))

    for key in properties:
        if key not in _ASKED:
            wrong(key, f"unknown key `{key}`; keys here: {', '.join(f'`{name}`' for name in _ASKED)}")
    kind = properties.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        wrong("kind", f"expected one of {', '.join(f'`{name}`' for name in KINDS)}")
        kind = ""
    subject = properties.get("subject", RELEASES if kind == "policyRelease" else None)
    if not isinstance(subject, str) or not subject.startswith("/") or len(subject) > 2_048:
        wrong("subject", "expected the id of the resource that it is about, which begins with `/`")
    elif kind == "policyRelease" and subject.lower().rstrip("/") != RELEASES.lower():
        wrong("subject", f"a policy release is about the whole instance; write `{RELEASES}`, or leave it out")
    change = properties.get("change")
    if not isinstance(change, dict):
        wrong("change", "expected an object with what is to be changed; `{}` where the kind says all")
    reason = properties.get("reason")
    if not isinstance(reason, str) or not reason.strip() or len(reason) > _REASON:
        wrong("reason", f"expected a text that says why, at most {_REASON} characters")
    effective_ms = _instant(properties.get("effectiveAt"), kind, now_ms, wrong)
    if problems:
        raise refused(problems)
    assert isinstance(subject, str)
    assert isinstance(change, dict)
    assert isinstance(reason, str)
    return Proposed(kind, subject.rstrip("/"), change, reason.strip(), effective_ms)


def _instant(given: Any, kind: str, now_ms: int, wrong: Any) -> int | None:
    if given is None:
        return None
    if kind not in {"", "policyRelease"}:
        wrong("effectiveAt", "only a policy release takes effect at an instant of its own; leave it out")
        return None
    try:
        at_ms = milliseconds(given) if isinstance(given, str) else None
    except ValueError:
        at_ms = None
    if at_ms is None:
        wrong("effectiveAt", "expected an instant; write it like `2027-01-31T00:00:00Z`")
    elif at_ms <= now_ms:
        wrong("effectiveAt", "this instant is past; leave it out for as soon as it is approved")
    elif at_ms > now_ms + _FAR_MS:
        wrong("effectiveAt", "this instant is more than five years away; propose it later")
    return at_ms


def refused(problems: list[Detail]) -> Error:
    message = problems[0].message if len(problems) == 1 else f"the proposal has {len(problems)} mistakes"
    return Error(Code.BAD_REQUEST, message, name="InvalidProposal", param=problems[0].target, details=tuple(problems))


def opened(proposed: Proposed, by: Person, at_ms: int, subject_etag: str, more: Mapping[str, Any]) -> dict[str, Any]:
    """The properties of a new proposal. `subjectEtag` is what it was made in view of."""
    properties: dict[str, Any] = {
        "kind": proposed.kind,
        "subject": proposed.subject,
        "change": proposed.change,
        "reason": proposed.reason,
        "state": "proposed",
        "proposedBy": by.plain(),
        "proposedAt": iso(at_ms),
        "subjectEtag": subject_etag,
    }
    if proposed.effective_ms is not None:
        properties["effectiveAt"] = iso(proposed.effective_ms)
    return properties | dict(more)


def same_request(properties: Mapping[str, Any], asked: Proposed) -> bool:
    """Whether a proposal that stands is what is asked for again, so that a repeated PUT does no harm."""
    effective = None if asked.effective_ms is None else iso(asked.effective_ms)
    there = tuple(properties.get(key) for key in ("kind", "subject", "change", "reason", "effectiveAt"))
    return there == (asked.kind, asked.subject, asked.change, asked.reason, effective)


def decided(
    properties: Mapping[str, Any], verb: Verb, by: Person, at_ms: int, reason: str | None, break_glass: bool = False
) -> dict[str, Any]:
    """The properties after a decision.

    Raises Error: CONFLICT when it is decided already; 403 for one's own proposal, unless the glass is broken.
    """
    state = properties.get("state")
    if state != "proposed":
        raise Error(Code.CONFLICT, f"the proposal is {state} already; propose it anew", name="ProposalDecided")
    after = dict(properties) | {"state": STATES[verb], "decidedBy": by.plain(), "decidedAt": iso(at_ms)}
    if reason:
        after["decisionReason"] = reason
    # INVARIANT: nobody approves what they proposed. It is asked inside the transaction that also applies it.
    if verb == "approve" and by.same(properties.get("proposedBy", {})):
        if not break_glass:
            raise Error(
                Code.ACCESS_DENIED,
                "you proposed this, so another person has to approve it; in an emergency an Owner of the instance may "
                'approve with `"breakGlass": true` and a reason, which is logged as an error and stands on the ledger',
                name="SecondPersonRequired",
            )
        if not reason:
            raise Error(
                Code.BAD_REQUEST,
                "breaking the glass needs a `reason`: it stands on the ledger",
                name="ReasonRequired",
                param="reason",
            )
        after["breakGlass"] = {"by": by.plain(), "at": iso(at_ms), "reason": reason}
    return after


def stale(what: str) -> Error:
    return Error(
        Code.CONFLICT,
        f"{what} has changed since this was proposed; look at it as it is now and propose it again under a new GUID",
        name="StaleProposal",
    )


def shown(properties: Mapping[str, Any], now_ms: int) -> dict[str, Any]:
    """As the API answers: with `applied`, which for a scheduled policy release comes with its instant."""
    told = dict(properties)
    if told.get("state") == "approved":
        told["applied"] = milliseconds(str(told.get("appliesAt", told["decidedAt"]))) <= now_ms
    return told
