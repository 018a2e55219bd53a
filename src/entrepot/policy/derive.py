"""The one place where facts follow from resources: what the policy may know of a client and of a target.

An approval holds until its expiry, not at it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from entrepot.policy.membership import listing, member
from entrepot.resources.model import Account, Organization

# The facts about a client that change by themselves.
EXPIRING: Final = ("org.kyc", "org.licence", "org.eligibility")

Facts = dict[str, str | frozenset[str]]


class Target(msgspec.Struct, frozen=True):
    """A candidate for a call: what is served there, where it runs, and from where it is reached."""

    provider: str
    model: str
    region: str
    territory: str
    operator: str
    egress_territory: str
    zones: tuple[str, ...] = ()
    in_residency: bool = True


def expiries(organization: Organization) -> tuple[int, ...]:
    """The instants at which a fact about the organization changes by itself, sorted."""
    ends = [organization.kyc_expires_ms] if organization.kyc == "approved" else []
    if organization.licence is not None:
        ends.append(organization.licence.expires_ms)
    ends.extend(one.expires_ms for one in organization.eligibility)
    return tuple(sorted({end for end in ends if end is not None}))


def stretches(organization: Organization, account: Account) -> tuple[tuple[int, ...], tuple[Facts, ...]]:
    """When facts about the client change by themselves, and the facts up to the first instant and from each."""
    cuts = expiries(organization)
    instants = (cuts[0] - 1 if cuts else 0, *cuts)
    return cuts, tuple([principal_facts(organization, account, at_ms) for at_ms in instants])


def principal_facts(organization: Organization, account: Account, at_ms: int) -> Facts:
    """The facts about the client at an instant, without ownership (`ownership.holding`)."""
    return {
        "org.territory": organization.territory,
        "org.entity_type": organization.entity_type,
        "org.kyc": _kyc(organization, at_ms),
        "org.licence": _licence(organization, at_ms),
        "org.screening": organization.screening,
        "org.eligibility": frozenset(
            one.name for one in organization.eligibility if not _expired(one.expires_ms, at_ms)
        ),
        "org.flag": frozenset(organization.flag),
        "account.channel": account.channel,
        "account.operator": account.operator,
        "account.state": account.state,
    }


def target_facts(target: Target) -> Facts:
    return {
        "target.provider": target.provider,
        "target.model": target.model,
        "target.region": target.region,
        "target.territory": target.territory,
        "target.zone": frozenset(target.zones),
        "target.operator": target.operator,
        "target.in_residency": "true" if target.in_residency else "false",
        "egress.territory": target.egress_territory,
    }


def within_residency(residency: Iterable[str], territory: str, zones: Iterable[str]) -> bool:
    """Whether a target is where the account's inference may run; an unknown place is not. No residency: anywhere."""
    allowed = listing(residency)
    return not allowed.values or not allowed.values.isdisjoint(zones) or member(territory, allowed) is True


def _kyc(organization: Organization, at_ms: int) -> str:
    approved = organization.kyc == "approved"
    return "expired" if approved and _expired(organization.kyc_expires_ms, at_ms) else organization.kyc


def _licence(organization: Organization, at_ms: int) -> str:
    if organization.licence is None:
        return "none"
    return "expired" if _expired(organization.licence.expires_ms, at_ms) else "valid"


def _expired(expires_ms: int | None, at_ms: int) -> bool:
    return expires_ms is not None and at_ms >= expires_ms
