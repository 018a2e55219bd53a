"""Entries of calls: put together from parts that many share, they are what encoding each anew would give."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any, cast

import pytest

from entrepot.errors import Code, Error
from entrepot.gateway.admit import Verdicts
from entrepot.gateway.call import Call, Occasion, Verdict
from entrepot.gateway.records import Records
from entrepot.ledger import entries
from entrepot.origin.resolve import Origin
from entrepot.policy.derive import principal_facts
from entrepot.resources import model
from entrepot.snapshot import Account, Compiled, Deployment, Published, Revision, Snapshot
from harness import BASE_PACK

EXPIRY_MS = 1_790_000_000_000
ORIGIN = Origin("JP", "business", attested=False, source="site")
OWNERS = (model.Owner("Müller", "DE", 40_000_000), model.Owner("A Holding", "JP", None, "Müller"))


def account(name: str, subscription: str, *deployments: str) -> model.Account:
    served = tuple(model.Deployment(each, "gpt-4o", "1", "GlobalStandard") for each in deployments)
    keys = model.Keys(f"sha256:{name.encode().hex():0<64}")
    return model.Account(name, subscription, "rg", "japaneast", "direct", "harbour", keys, deployments=served)


def organization(name: str, **more: Any) -> model.Organization:
    given = {"kyc": "approved", "kyc_expires_ms": EXPIRY_MS, "screening": "clear"} | more
    return model.Organization(name, name, "JP", "enterprise", **given)


@cache
def snapshot() -> Snapshot:
    world = model.World(
        gateway=model.Gateway(territory="JP"),
        operators=(model.Operator("harbour", "Harbour", "JP"),),
        regions=(model.Region("japaneast", "JP", "harbour", ("apac",)),),
        providers=(model.Provider("openai"),),
        upstreams=tuple(
            model.Upstream(name, "openai", "japaneast", "openai", "http://x.example/v1", "none", {"gpt-4o@1": "g"})
            for name in ("a", "b")
        ),
        organizations=(
            organization("one"),
            organization("two"),
            organization("owned", owners=OWNERS),
            organization('"Ä"', kyc="pending"),
        ),
        subscriptions=tuple(model.Subscription(f"s-{name}", name) for name in ("one", "two", "owned", '"Ä"')),
        accounts=(
            account("first", "s-one", "d", "e"),
            account("second", "s-two", "d", "日本"),
            account("third", "s-owned", "d"),
            account("a\\b", 's-"Ä"', "d"),
        ),
        packs=(model.PackSource("base.toml", BASE_PACK.encode()),),
    )
    return Compiled.whole(Published(Revision(1, 7), world, {})).snapshot


def called(of: Snapshot, account: Account, deployment: Deployment, at_ms: int) -> Call:
    request = SimpleNamespace(peer="192.0.2.1", headers={}, body=b"{}")
    exchange = cast("Any", SimpleNamespace(request=request))
    call = Call(exchange, of, cast("Any", {}), "00000000-0000-8000-8000-000000000001", at_ms)
    call.account, call.deployment, call.key_name, call.operation = account, deployment, "key1", "chat"
    call.fields = {}
    return call


def anew(of: Snapshot, call: Call, verdict: Verdict, refused: str | None, commitment: str) -> bytes:
    account, deployment = call.account, call.deployment
    assert account is not None
    assert deployment is not None
    organization = account.organization
    numbers = {owner.name: str(number) for number, owner in enumerate(organization.owners, 1)}
    owners = tuple(
        entries.Owner(
            numbers[owner.name],
            *(entries.UNSET if owner.of is None else numbers[owner.of],),
            *(entries.UNSET if owner.share_micros is None else owner.share_micros,),
            owner.territory,
        )
        for owner in organization.owners
    )
    facts = entries.facts(principal_facts(organization, account.given, call.at_ms))
    return entries.encode(
        entries.Decision(
            admitted=refused is None,
            at_ms=call.at_ms,
            candidates=[
                entries.raw(entries.Candidate(each.facts, decision.permit, decision.rules, each.upstream))
                for each, decision in zip(deployment.candidates, verdict.decisions, strict=True)
            ],
            client=entries.raw(entries.Client(account.name, facts, organization.name, owners)),
            code=entries.UNSET if refused is None else refused,
            commitment=commitment,
            deployment=entries.raw(entries.Deployment(deployment.model, deployment.name, deployment.version)),
            operation=call.operation,
            origin=entries.raw(entries.Origin(False, ORIGIN.edition, ORIGIN.network, ORIGIN.source, ORIGIN.territory)),
            release=of.program.release,
            request=call.id,
            revision=of.revision.number(),
        )
    )


@pytest.mark.parametrize("refused", [None, Error(Code.RATE_LIMITED, "later", subject="requests")])
def test_entries_are_what_encoding_gives(refused: Error | None) -> None:
    of = snapshot()
    verdicts, records = Verdicts(of), Records(of, of.revision.number())
    for at_ms in (EXPIRY_MS - 1, EXPIRY_MS, EXPIRY_MS - 1):
        for account in of.accounts.values():
            for deployment in account.deployments.values():
                verdict = verdicts.on(account, deployment, Occasion(at_ms, ORIGIN, "chat"))
                call = called(of, account, deployment, at_ms)
                entry = records.decision(call, verdict, refused)
                commitment = entry.partition(b'"commitment":"')[2].partition(b'"')[0].decode()
                assert entry == anew(of, call, verdict, refused and refused.name, commitment)


def test_clients_of_one_standing_share_their_verdicts() -> None:
    of = snapshot()
    verdicts = Verdicts(of)
    first, second, third, other = of.accounts.values()
    occasion = Occasion(EXPIRY_MS - 1, ORIGIN, "chat")
    one = verdicts.on(first, first.deployments["d"], occasion)
    assert verdicts.on(first, first.deployments["e"], occasion) is one
    assert verdicts.on(second, second.deployments["日本"], occasion) is one
    assert verdicts.on(third, third.deployments["d"], occasion) is one
    assert verdicts.on(other, other.deployments["d"], occasion) is not one
    later = Occasion(EXPIRY_MS, ORIGIN, "chat")
    assert verdicts.on(first, first.deployments["d"], later).facts != one.facts
