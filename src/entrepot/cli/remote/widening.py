"""What of a world one person may write, and what has to be proposed, as the control plane has it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import msgspec

from entrepot.management.access.narrowing import grants

# What of an account its own people may only propose, and its operator may take away.
OF_ACCOUNT = frozenset({"state", "residency", "egress"})
GROUNDS = "declared in the world's files"


class Proposal(msgspec.Struct, frozen=True):
    """`told` says it in a few words; of a policy release it is the release's hash."""

    kind: str
    subject: str
    change: dict[str, Any]
    told: str


def organization(
    subject: str, before: Mapping[str, Any], after: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[Proposal, ...]]:
    """The properties to write, and what of `after` needs a second person. `before` is empty for a new one."""
    written = {key: value for key, value in after.items() if key != "eligibility"}
    proposals: list[Proposal] = []
    kept, had, want = [], grants(before), grants(after)
    entries = {each["name"]: each for each in (*before.get("eligibility", ()), *after.get("eligibility", ()))}
    old = {each["name"]: each for each in before.get("eligibility", ())}
    for name in want:
        if name in had:  # a shorter end is written, a longer one proposed
            kept.append(entries[name] if want[name] <= had[name] else old[name])
        if name not in had or want[name] > had[name]:
            change = {**entries[name], "grounds": GROUNDS}
            proposals.append(Proposal("eligibility", subject, change, _until(entries[name])))
    if kept:
        written["eligibility"] = kept
    reinstated: dict[str, Any] = {}
    for key, finding, way, default in (
        ("kyc", "rejected", "approved", "none"),
        ("screening", "hit", "clear", "unknown"),
    ):
        if before.get(key) == finding != after.get(key, default):
            written[key] = finding
            if after.get(key) == way:
                reinstated[key] = way
    if "kyc" in reinstated and "kycExpires" in after:
        reinstated["kycExpires"] = after["kycExpires"]
        written.pop("kycExpires")
    if reinstated:
        told = ", ".join(f"{key} {value}" for key, value in reinstated.items())
        proposals.append(Proposal("reinstatement", subject, reinstated, told))
    return written, tuple(proposals)


def _until(entry: Mapping[str, Any]) -> str:
    return f"{entry['name']}" + (f" until {entry['expires']}" if "expires" in entry else "")


def account(subject: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Proposal, ...]:
    """`before` and `after` are properties in the terms of a world."""
    found = []
    for kind in ("residency", "egress"):
        wanted = after.get(kind, [])
        if before.get(kind, []) != wanted:
            told = ", ".join(each if isinstance(each, str) else each["network"] for each in wanted) or "none"
            found.append(Proposal(kind, subject, {kind: wanted}, told))
    if before.get("state") == "suspended" and after.get("state") != "suspended":
        found.append(Proposal("reinstatement", subject, {}, "active again"))
    return tuple(found)


def digest(key: str) -> str:
    """Of an account's key, or of its hash."""
    return key if key.startswith("sha256:") else f"sha256:{sha256(key.encode()).hexdigest()}"
