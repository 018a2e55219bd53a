"""Proposals over HTTP: PUT one, then another person approves or rejects it, or whoever made it withdraws it."""

from __future__ import annotations

import logging
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from entrepot.clock import wall_clock_ms
from entrepot.errors import Code, Detail, Error
from entrepot.management import http
from entrepot.management.access import envelope, proposal
from entrepot.management.access.applying import apply
from entrepot.management.access.collections import ROOT
from entrepot.management.access.preparing import prepared, settled
from entrepot.management.access.proposal import Person, Proposed, Verb
from entrepot.management.authorize import INSTANCE, PRINCIPALS, Caller, caller, chain_from, may, not_found, require
from entrepot.management.changes import Change
from entrepot.management.roles import OWNER
from entrepot.resources.ids import ACCESS, access_id
from entrepot.storage import EVERYTHING, Row

MANY: Final = f"{ROOT}/proposals"
ONE: Final = f"{MANY}/{{name}}"
READ: Final = f"{ACCESS}/proposals/read"
_VERBS: Final[tuple[Verb, ...]] = ("approve", "reject", "withdraw")
_REASON: Final = 2_000
_log = logging.getLogger(__name__)


def routes() -> list[Route]:
    instead = "a proposal is decided with POST to its `/approve`, `/reject` or `/withdraw`, and stays on record"
    decisions = [http.route("POST", f"{ONE}/{verb}", _decide(verb)) for verb in _VERBS]
    return [
        http.route("GET", MANY, _list),
        http.route("GET", ONE, _get, instead=instead),
        http.route("PUT", ONE, _put),
        *decisions,
    ]


async def _list(request: Request) -> Response:
    who, control = caller(request), http.control_of(request)
    rows = await control.store.list(who.tenancy, "proposal")
    at_ms = wall_clock_ms()
    readable = [row for row in rows if may(who, READ, chain(row))]
    return http.paged(request, readable, lambda row: _brief(shown(row, at_ms)))


async def _get(request: Request) -> Response:
    who, control = caller(request), http.control_of(request)
    row = _readable(who, await control.store.get(who.tenancy, _id(request)), _id(request))
    return envelope.answer(row, shown(row, wall_clock_ms()))


def shown(row: Row, at_ms: int) -> dict[str, Any]:
    return envelope.shown(row, proposal.shown(row.body["properties"], at_ms))


def _brief(told: dict[str, Any]) -> dict[str, Any]:
    """In lists a policy release is told by its hash and the names of its packs: its text and reports are long."""
    properties = {key: value for key, value in told["properties"].items() if key != "reports"}
    if properties["kind"] == "policyRelease":
        packs = [{"name": each["name"]} for each in properties["change"]["packs"]]
        properties["change"] = properties["change"] | {"packs": packs}
    return told | {"properties": properties}


def chain(row: Row) -> tuple[str, ...]:
    """A proposal lies where its subject lies, so that whoever has the account's subscription sees what is proposed."""
    return (row.id.lower(), *chain_from(row.body["properties"]["subject"], row.operator))


def _readable(who: Caller, row: Row | None, id: str) -> Row:  # noqa: A002
    if row is None or not may(who, READ, chain(row)):
        raise not_found(id)
    return row


async def _put(request: Request) -> Response:
    """Idempotent: the same proposal again, by the same principal, answers what stands."""
    who, control = caller(request), http.control_of(request)
    id = _id(request)  # noqa: A001
    body = envelope.sent(await http.body(request))
    asked = settled(proposal.read(body["properties"], wall_clock_ms()))
    if asked.kind == "policyRelease" and (there := await control.store.get(EVERYTHING, id)) is not None:
        return _again(request, who, there, asked)  # before it is examined, which takes seconds
    ready = await prepared(control, who, asked)
    async with control.change(who.actor, f"{ACCESS}/proposals/write") as change:
        await change.hold((), (id, asked.subject, f"{PRINCIPALS}{who.actor.name}"), ())
        before = await change.get(EVERYTHING, id)
        if before is not None:
            return _again(request, who, before, asked)
        envelope.check_conditions(request, None)
        subject = await ready.check(change, who)
        by = await _person(change, who.actor.principal, who.actor.name)
        properties = proposal.opened(ready.proposed, by, change.at_ms, subject.etag, ready.more)
        draft = change.draft(
            id,
            "proposal",
            {**body, "properties": properties},
            operator=subject.operator,
            subscription=subject.subscription,
        )
        row = await change.put(draft, if_none_match=True)
    return envelope.answer(row, shown(row, wall_clock_ms()), 201)


def _again(request: Request, who: Caller, before: Row, asked: Proposed) -> Response:
    properties = _readable(who, before, before.id).body["properties"]
    envelope.check_conditions(request, before)
    if properties["proposedBy"]["principal"] == who.actor.principal and proposal.same_request(properties, asked):
        return envelope.answer(before, shown(before, wall_clock_ms()))
    raise Error(
        Code.CONFLICT,
        "a proposal stays as it was made, so that what is approved is what was seen; propose under a new GUID",
        name="ProposalExists",
    )


def _decide(verb: Verb) -> http.Handler:
    async def handle(request: Request) -> Response:
        who, control = caller(request), http.control_of(request)
        id = _id(request)  # noqa: A001
        reason, break_glass = _said(await http.body(request, optional=True), verb)
        async with control.change(who.actor, f"{ACCESS}/proposals/{verb}/action", proposal=id) as change:
            await change.hold((), (id, f"{PRINCIPALS}{who.actor.name}"), ())
            row = _readable(who, await change.get(who.tenancy, id), id)
            _authorize(who, verb, row, break_glass=break_glass)
            envelope.check_conditions(request, row)
            by = await _person(change, who.actor.principal, who.actor.name)
            made = row.body["properties"]
            # Whose the proposer's principal is may have come on record since.
            proposer = await _person(change, made["proposedBy"]["principal"], made["proposedBy"]["name"])
            known = made | {"proposedBy": proposer.plain() | made["proposedBy"]}
            after = proposal.decided(known, verb, by, change.at_ms, reason, break_glass=break_glass)
            after["proposedBy"] = made["proposedBy"]
            if verb == "approve":
                after = await apply(change, id, after)
            if broken := after.get("breakGlass"):
                change.note(break_glass=broken["reason"])
            draft = change.draft(
                id, "proposal", {**row.body, "properties": after}, operator=row.operator, subscription=row.subscription
            )
            row = await change.put(draft)
        if broken:
            _log.error(
                "break-glass: `%s` (%s) approved their own proposal `%s` about `%s`: %s",
                by.name,
                by.principal,
                id,
                after["subject"],
                broken["reason"],
            )
        return envelope.answer(row, shown(row, wall_clock_ms()))

    return handle


def _authorize(who: Caller, verb: Verb, row: Row, *, break_glass: bool) -> None:
    if verb == "withdraw" and row.body["properties"]["proposedBy"]["principal"] == who.actor.principal:
        return
    require(who, f"{ACCESS}/proposals/{verb}/action", chain(row))
    if break_glass and not any(each.role == OWNER and each.scope == INSTANCE for each in who.assignments):
        raise Error(
            Code.ACCESS_DENIED,
            "only an Owner of the instance may break the glass: a role at `/` itself",
            name="AuthorizationFailed",
        )


def _said(body: dict[str, Any], verb: Verb) -> tuple[str | None, bool]:
    """`{reason?, breakGlass?}` of an approval, `{reason?}` of the others. Raises Error (400)."""
    problems = []
    reason, break_glass = body.get("reason"), body.get("breakGlass", False)
    if reason is not None and (not isinstance(reason, str) or len(reason) > _REASON):
        problems.append(Detail("InvalidProperty", f"expected a text of at most {_REASON} characters", "reason"))
    known = {"reason", "breakGlass"} if verb == "approve" else {"reason"}
    problems += [Detail("InvalidProperty", f"unknown key `{key}`", key) for key in body if key not in known]
    if not isinstance(break_glass, bool):
        problems.append(Detail("InvalidProperty", "expected `true` or `false`", "breakGlass"))
    if problems:
        raise proposal.refused(problems)
    return (reason.strip() or None) if isinstance(reason, str) else None, break_glass


async def _person(change: Change, principal: str, name: str) -> Person:
    """A principal of one person's several carries that person in `properties.owner`."""
    row = await change.get(EVERYTHING, f"{PRINCIPALS}{name}")
    properties = row.body["properties"] if row is not None else {}
    # Another principal may have the name of one that was deleted.
    owner = properties.get("owner") if properties.get("appId") == principal else None
    return Person(principal, name, owner if isinstance(owner, str) and owner else None)


def _id(request: Request) -> str:
    name = str(request.path_params["name"])
    id = access_id("proposal", name.lower())  # noqa: A001
    if not proposal.GUID.fullmatch(name.lower()):
        if request.method == "PUT":
            fix = f"`{name[:80]}` is not a GUID; write five groups of hexadecimal digits"
            raise proposal.refused([Detail("InvalidName", fix, "name")])
        raise not_found(id)
    return id
