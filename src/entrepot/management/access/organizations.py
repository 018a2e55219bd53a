"""Organizations: whose book they stand in, what a reviewer decides, what the system notes. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from entrepot.errors import Code, Detail, Error
from entrepot.management.access.instants import iso
from entrepot.management.access.narrowing import refuse_widening
from entrepot.management.authorize import Caller, may, require
from entrepot.management.changes import Actor
from entrepot.resources.ids import ACCESS

WRITE: Final = f"{ACCESS}/organizations/write"
REVIEW: Final = f"{ACCESS}/organizations/review/action"
# What a reviewer finds, as opposed to the record that it is found on.
REVIEWED: Final = ("kyc", "kycExpires", "screening", "licence", "flag")
_AT_FIRST: Final[Mapping[str, Any]] = {"kyc": "none", "screening": "unknown", "flag": []}
DOCUMENT: Final = frozenset({"name", "sha256", "kind", "issued", "expires", "note", "url"})
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def operator_mistakes(properties: Mapping[str, Any]) -> list[Detail]:
    """It has to be said in whose book it stands."""
    given = properties.get("operator")
    if isinstance(given, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", given):
        return []
    fix = "expected the name of the operator in whose book it stands"
    return [Detail("InvalidProperty", fix, "properties.operator")]


def operator_of(standing: Mapping[str, Any], properties: Mapping[str, Any]) -> str:
    """In whose book it stands, where that is said. Raises Error CONFLICT: it never changes."""
    given, there = str(properties["operator"]), standing.get("operator")
    if there is not None and given != there:
        message = f"it stands in the book of `{there}` and stays there; another operator records it anew"
        raise Error(Code.CONFLICT, message, name="Conflict", param="properties.operator")
    return given


def authorize(who: Caller, chain: Sequence[str], standing: Mapping[str, Any], properties: Mapping[str, Any]) -> None:
    """A reviewer's findings need the right to review, the record the right to write; a change of both needs both."""
    reviewed = any(_reviewed(standing, key) != _reviewed(properties, key) for key in REVIEWED)
    record = not standing or any(
        standing.get(key) != properties.get(key) for key in {*standing, *properties} - {*REVIEWED, "kycReview"}
    )
    if reviewed:
        require(who, REVIEW, chain)
    if record or not reviewed:
        # Who may only review and changed nothing has changed nothing.
        if not record and may(who, REVIEW, chain):
            return
        require(who, WRITE, chain)


def _reviewed(properties: Mapping[str, Any], key: str) -> Any:
    return properties.get(key, _AT_FIRST.get(key))


def complete(
    id: str,  # noqa: A002
    standing: Mapping[str, Any],
    properties: dict[str, Any],
    actor: Actor,
    at_ms: int,
) -> None:
    """Raises Error (400) for what needs a second person; notes who reviewed, which nobody writes themselves."""
    refuse_widening(id, standing, properties)
    _keep_grounds(standing, properties)
    kyc = properties.get("kyc", "none")
    again = kyc != standing.get("kyc", "none") or properties.get("kycExpires") != standing.get("kycExpires")
    if kyc in {"approved", "rejected"} and again:
        reviewer = {"principal": actor.principal, "name": actor.name}
        properties["kycReview"] = {"reviewer": reviewer, "reviewedAt": iso(at_ms)}
    elif "kycReview" in standing:
        properties["kycReview"] = standing["kycReview"]
    else:
        properties.pop("kycReview", None)


def keep_findings(standing: Mapping[str, Any]) -> None:
    """Raises Error CONFLICT: who was rejected would come back unknown, by one person's hand."""
    for key, finding in (("kyc", "rejected"), ("screening", "hit")):
        if standing.get(key) == finding:
            message = f"its `{key}` is `{finding}`, which stays on record; reinstate it first if that was a mistake"
            raise Error(Code.CONFLICT, message, name="FindingOnRecord", param=f"properties.{key}")


def _keep_grounds(standing: Mapping[str, Any], properties: dict[str, Any]) -> None:
    """An eligibility that stays keeps its grounds and proposal, also where the request only names it."""
    had = {each["name"]: each for each in standing.get("eligibility", ()) if isinstance(each, dict) and "name" in each}
    listed = properties.get("eligibility")
    if not isinstance(listed, list):
        return
    kept = []
    for each in listed:
        name = each if isinstance(each, str) else each.get("name") if isinstance(each, dict) else None
        before = had.get(name) if isinstance(name, str) else None
        if before is None:
            kept.append(each)
        else:
            expires = {"expires": each["expires"]} if isinstance(each, dict) and "expires" in each else {}
            kept.append(before | expires)
    properties["eligibility"] = kept


def document_mistakes(documents: Any) -> list[Detail]:
    """Evidence by its hash: `[{name, sha256, …}]`; the documents themselves are kept elsewhere."""
    problems: list[Detail] = []
    if not isinstance(documents, list):
        return [Detail("InvalidProperty", "expected an array of documents", "properties.documents")]
    for at, each in enumerate(documents):
        target = f"properties.documents[{at}]"
        if not isinstance(each, dict):
            problems.append(Detail("InvalidProperty", "expected an object with `name` and `sha256`", target))
            continue
        if not isinstance(each.get("name"), str) or not each["name"].strip():
            problems.append(Detail("InvalidProperty", "expected a text that says which document", f"{target}.name"))
        digest = each.get("sha256")
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            fix = "expected the SHA-256 of the document: 64 hexadecimal digits in lower case"
            problems.append(Detail("InvalidProperty", fix, f"{target}.sha256"))
        problems.extend(
            Detail("InvalidProperty", f"unknown key `{key}`; known: {', '.join(sorted(DOCUMENT))}", f"{target}.{key}")
            for key in each
            if key not in DOCUMENT
        )
        problems.extend(
            Detail("InvalidProperty", "expected a string", f"{target}.{key}")
            for key in sorted(DOCUMENT - {"name", "sha256"})
            if key in each and not isinstance(each[key], str)
        )
    return problems
