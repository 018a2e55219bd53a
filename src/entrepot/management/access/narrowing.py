"""The rule of two persons, once: what narrows access one person may write, what widens it is proposed and approved.

INVARIANT: nobody widens alone. A widening is
* an eligibility that an organization did not have, or that would end later than before,
* KYC that leaves `rejected`, or screening that leaves `hit`, by whatever way,
* a suspended account that becomes active again,
* an attested network, or another residency, of an account,
* a policy release.
Everything else about an organization is its operator's word: its record, the first check of its identity and every
later one (the system notes who reviewed it), and whatever takes something away.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from entrepot.errors import Code, Detail, Error
from entrepot.management.access.instants import NEVER, milliseconds

EXAMPLE_ID = "00000000-0000-0000-0000-000000000000"


def refuse_widening(id: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:  # noqa: A002
    """Raises Error (400) with every widening of an organization's properties and the request that proposes it."""
    details = tuple(_widenings(id, before, after))
    if details:
        raise Error(
            Code.BAD_REQUEST,
            f"{details[0].message}" if len(details) == 1 else f"{len(details)} changes of it need a second person",
            name="ProposalRequired",
            param=details[0].target,
            details=details,
        )


def _widenings(id: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Detail]:  # noqa: A002
    had = grants(before)
    for name, until_ms in grants(after).items():
        if name not in had or until_ms > had[name]:
            what = f"the eligibility `{name}`" if name not in had else f"a later end of the eligibility `{name}`"
            yield _propose(what, "properties.eligibility", "eligibility", id, f'{{"name":"{name}","grounds":"…"}}')
    if before.get("kyc") == "rejected" != after.get("kyc", "none"):
        yield _propose("KYC after a rejection", "properties.kyc", "reinstatement", id, '{"kyc":"approved"}')
    if before.get("screening") == "hit" != after.get("screening", "unknown"):
        yield _propose("screening after a hit", "properties.screening", "reinstatement", id, '{"screening":"clear"}')


def _propose(what: str, target: str, kind: str, subject: str, change: str) -> Detail:
    request = (
        f"PUT /providers/Entrepot.Access/proposals/{EXAMPLE_ID} "
        f'{{"properties":{{"kind":"{kind}","subject":"{subject}","change":{change},"reason":"…"}}}}'
    )
    return Detail(
        "ProposalRequired",
        f"{what} is never written directly: one person proposes it, another approves it; send, with a new GUID, "
        f"`{request}`",
        target,
    )


def grants(properties: Mapping[str, Any]) -> dict[str, float]:
    """Eligibilities by name with their end in ms. An entry in no known form is left to validation, which refuses it."""
    found: dict[str, float] = {}
    listed = properties.get("eligibility")
    for each in listed if isinstance(listed, list) else ():
        if isinstance(each, str):
            found[each] = NEVER
        elif isinstance(each, dict) and isinstance(each.get("name"), str):
            found[each["name"]] = max(found.get(each["name"], 0), _end(each.get("expires")))
    return found


def _end(expires: Any) -> float:
    """An end that cannot be read counts as none, which is the wider."""
    if not isinstance(expires, str):
        return NEVER
    try:
        return milliseconds(expires)
    except ValueError:
        return NEVER
