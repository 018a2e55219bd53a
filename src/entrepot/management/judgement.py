"""Whether the policy lets a client deploy or subscribe, and how that is written down. The decision itself is pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec
from msgspec import UNSET, Raw

from entrepot.ledger import entries
from entrepot.origin.model import Origin
from entrepot.policy import Decision, Program, Target, within_residency
from entrepot.policy.derive import principal_facts, target_facts
from entrepot.resources import model as declared
from entrepot.resources.candidates import candidate_regions

Operation = Literal["deploy", "subscribe"]


class Verdict(msgspec.Struct, frozen=True):
    """`code` and `reason` are the first candidate's, None and empty if permitted; `place` is the ledger's decision."""

    permit: bool
    code: str | None
    reason: Mapping[str, str]
    place: str
    request: str


class Considered(NamedTuple):
    """A candidate target and what was decided on it."""

    upstream: str
    target: Target
    decision: Decision


class Asked(NamedTuple):
    """Who wants what, from where, when."""

    operation: Operation
    organization: declared.Organization
    account: declared.Account
    deployment: declared.Deployment | None
    origin: Origin
    at_ms: int
    leaves_from: tuple[str, ...]


def consider(asked: Asked, program: Program, catalogue: declared.World) -> list[Considered]:
    """One decision for each candidate: of the deployment's SKU, or, for `subscribe`, of all that there are.

    A call may leave from any gateway, so a candidate is one for each territory that there are gateways in.
    """
    known = (
        program.principal(asked.organization, asked.account).at(asked.at_ms)[0]
        & program.segment(asked.at_ms)[0]
        & program.of("origin.territory", asked.origin.territory)
        & program.of("origin.network", asked.origin.network)
        & program.of("origin.attested", "true" if asked.origin.attested else "false")
        & program.of("operation", asked.operation)
    )
    return [
        Considered(upstream, target, program.decide(known & program.target(target)))
        for upstream, target in _targets(asked, catalogue)
    ]


def _targets(asked: Asked, catalogue: declared.World) -> Iterable[tuple[str, Target]]:
    regions = {region.name: region for region in catalogue.regions}
    wanted, allowed = asked.deployment, frozenset(regions)
    if wanted is not None:
        allowed = candidate_regions(wanted.sku, asked.account.location, regions)
    for upstream in sorted(catalogue.upstreams, key=lambda each: (each.priority, each.name)):
        if upstream.region not in allowed:
            continue
        region = regions[upstream.region]
        in_residency = within_residency(asked.account.residency, region.territory, region.zones)
        for served in upstream.models:
            if wanted is not None and served != f"{wanted.model}@{wanted.version}":
                continue
            for territory in (upstream.proxy.territory,) if upstream.proxy else asked.leaves_from:
                target = Target(
                    provider=upstream.provider,
                    model=served.partition("@")[0],
                    region=region.name,
                    territory=region.territory,
                    operator=region.operator,
                    egress_territory=territory,
                    zones=region.zones,
                    in_residency=in_residency,
                )
                yield upstream.name, target


class Writing(NamedTuple):
    """What a decision's entry holds besides what was asked and considered."""

    release: str
    revision: int
    request: str
    commitment: str
    code: str | None


def entry_of(asked: Asked, considered: Sequence[Considered], writing: Writing) -> bytes:
    """The ledger's `decision`, as a gateway would write it; `code` where it was refused."""
    account, wanted = asked.account, asked.deployment
    facts = entries.facts(principal_facts(asked.organization, account, asked.at_ms))
    client = entries.Client(account.name, facts, asked.organization.name, _numbered(asked.organization))
    of = entries.Deployment("*", "", "*")
    if wanted is not None:
        of = entries.Deployment(wanted.model, wanted.name, wanted.version)
    origin = asked.origin
    return entries.encode(
        entries.Decision(
            admitted=writing.code is None,
            at_ms=asked.at_ms,
            candidates=[_candidate(each) for each in considered],
            client=entries.raw(client),
            code=UNSET if writing.code is None else writing.code,
            commitment=writing.commitment,
            deployment=entries.raw(of),
            operation=asked.operation,
            origin=entries.raw(
                entries.Origin(origin.attested, origin.edition, origin.network, origin.source, origin.territory)
            ),
            release=writing.release,
            request=writing.request,
            revision=writing.revision,
        )
    )


def _candidate(each: Considered) -> Raw:
    facts = Raw(msgspec.json.encode(entries.facts(target_facts(each.target))))
    return entries.raw(entries.Candidate(facts, each.decision.permit, each.decision.rules, each.upstream))


def _numbered(organization: declared.Organization) -> tuple[entries.Owner, ...]:
    """Owners without their names: natural persons may be among them."""
    numbers = {owner.name: str(number) for number, owner in enumerate(organization.owners, 1)}
    return tuple(
        entries.Owner(
            numbers[owner.name],
            UNSET if owner.of is None else numbers[owner.of],
            UNSET if owner.share_micros is None else owner.share_micros,
            owner.territory,
        )
        for owner in organization.owners
    )
