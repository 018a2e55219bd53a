"""How calls become entries of the ledger. What is the same for many calls of a snapshot is encoded once."""

from __future__ import annotations

import time
from hashlib import sha256
from typing import Final

import msgspec
from msgspec import UNSET, Raw

from entrepot.errors import Error
from entrepot.gateway.call import Call, Spelled, Verdict
from entrepot.gateway.remembered import remember
from entrepot.http1.client import Response
from entrepot.ledger import entries
from entrepot.ledger.commitments import commit
from entrepot.ledger.entries import Decision, Leg, Outcome, Personal, Usage, encode, raw
from entrepot.origin.model import Origin
from entrepot.policy import Decision as Decided
from entrepot.resources import model as declared
from entrepot.snapshot import Candidate, Snapshot
from entrepot.wire.body import Fields
from entrepot.wire.usage import estimated, usage_in_part

LONGEST_NAME = 256
ANSWERS = ("application/json", "text/event-stream")

_monotonic: Final = time.monotonic
_text: Final = msgspec.json.Decoder(str)
_encoded: Final = msgspec.json.encode


class Records:
    """The entries of one snapshot's calls. Remembers encoded parts by the objects that they stand for."""

    def __init__(self, snapshot: Snapshot, revision: int) -> None:
        self._release = snapshot.program.release
        self._revision = revision
        self._packs = tuple(entries.Pack(pack.data, pack.name) for pack in snapshot.packs)
        self._owners: dict[str, Raw] = {}
        self._origins: dict[int, tuple[Origin, Raw]] = {}
        self._candidates: dict[tuple[int, int], tuple[Candidate, Decided, Raw]] = {}

    def release(self, at_ms: int) -> bytes:
        """That this snapshot's policy is in force from here on, with its packs' bytes."""
        return encode(entries.Release(at_ms, self._packs, self._release, self._revision))

    def decision(self, call: Call, verdict: Verdict, refusal: Error | None) -> bytes:
        """The entry; `call.personal` gets the salt and value that its commitment stands for."""
        call.personal, commitment = commit(personal(call))
        if refusal is not None:
            return encode(self._decision(call, verdict, refusal, commitment))
        # What `encode` gives for this, the most frequent of entries, in a fraction of the time.
        spelled = verdict.spelled
        if spelled is None:
            spelled = verdict.spelled = self._spelled(call, verdict)
        held, more = call.held, b""
        if held is not None and held.terms.budgets:
            more = b',"reserved":{"completion":%d,"prompt":%d}' % (held.completion, held.prompt)
        return (
            b'{"decision":{"admitted":true,"at_ms":%d,"candidates":[%b],"client":%b,"commitment":"%b","deployment":%b%b%b"%b'
            b',"revision":%d}}'
        ) % (
            *(call.at_ms, spelled[0], self._client(call, verdict), commitment.encode(), deployment(call)),
            *(spelled[1], call.id.encode(), more, self._revision),
        )

    def _spelled(self, call: Call, verdict: Verdict) -> Spelled:
        """What is the same in the entries of all admitted calls with this verdict."""
        of = self._decision(call, verdict, None, "")
        quoted, candidates = msgspec.json.encode, of.candidates
        joined = candidates[0] if len(candidates) == 1 else Raw(b",".join(map(bytes, candidates)))
        rest = b',"operation":%b,"origin":%b,"release":%b,"request":"' % (
            *(quoted(of.operation), of.origin, quoted(of.release)),
        )
        return joined, rest

    def _decision(self, call: Call, verdict: Verdict, refusal: Error | None, commitment: str) -> Decision:
        assert call.deployment is not None
        return Decision(
            admitted=refusal is None,
            at_ms=call.at_ms,
            candidates=[
                self._candidate(candidate, decision)
                for candidate, decision in zip(call.deployment.candidates, verdict.decisions, strict=True)
            ],
            client=Raw(self._client(call, verdict)),
            code=UNSET if refusal is None else refusal.name,
            commitment=commitment,
            deployment=Raw(deployment(call)),
            operation=call.operation,
            origin=self._origin(verdict.origin),
            release=self._release,
            request=call.id,
            revision=self._revision,
        )

    def _client(self, call: Call, verdict: Verdict) -> bytes:
        """What `encode` gives for an `entries.Client`, of which little is the client's own."""
        account = call.account
        assert account is not None
        organization = account.organization
        return b'{"account":%b,"facts":%b,"organization":%b,"owners":%b}' % (
            *(_encoded(account.name), verdict.facts, _encoded(organization.name)),
            self._owners_of(organization) if organization.owners else b"[]",
        )

    def _owners_of(self, organization: declared.Organization) -> Raw:
        found = self._owners.get(organization.name)
        if found is None:
            found = remember(self._owners, organization.name, Raw(_encoded(numbered(organization.owners))))
        return found

    def _origin(self, origin: Origin) -> Raw:
        # The resolver gives equal calls the same object; holding it here keeps its id from meaning another.
        found = self._origins.get(id(origin))
        if found is None:
            made = raw(entries.Origin(origin.attested, origin.edition, origin.network, origin.source, origin.territory))
            found = remember(self._origins, id(origin), (origin, made))
        return found[1]

    def _candidate(self, candidate: Candidate, decision: Decided) -> Raw:
        key = (id(candidate), id(decision))
        found = self._candidates.get(key)
        if found is None:
            made = raw(entries.Candidate(candidate.facts, decision.permit, decision.rules, candidate.upstream))
            found = remember(self._candidates, key, (candidate, decision, made))
        return found[2]


def deployment(call: Call) -> bytes:
    """What `encode` gives for an `entries.Deployment`."""
    of = call.deployment
    assert of is not None
    return b'{"model":%b,"name":%b,"version":%b}' % (_encoded(of.model), _encoded(of.name), _encoded(of.version))


def numbered(owners: tuple[declared.Owner, ...]) -> tuple[entries.Owner, ...]:
    """Owners without their names: natural persons may be among them."""
    numbers = {owner.name: str(number) for number, owner in enumerate(owners, 1)}
    return tuple(
        entries.Owner(
            numbers[owner.name],
            UNSET if owner.of is None else numbers[owner.of],
            UNSET if owner.share_micros is None else owner.share_micros,
            owner.territory,
        )
        for owner in owners
    )


def personal(call: Call) -> Personal:
    request = call.exchange.request
    origins = call.snapshot.origins
    address = origins.address(request.peer, request.headers.get(call.snapshot.origin_header))
    return Personal(address, call.key_name, end_user(call.fields))


def end_user(fields: Fields) -> str | msgspec.UnsetType:
    """The client's own name for whom it asks for, if it gives one."""
    for name in ("safety_identifier", "user"):
        value = fields.get(name)
        if value is not None:
            try:
                return named(_text.decode(value))
            except msgspec.DecodeError:  # no text names nobody; the upstream judges what else it is
                continue
    return UNSET


def named(user: str) -> str:
    """As it is kept: a name that is longer than any service takes is its digest, so that nobody fills our disk."""
    if len(user) <= LONGEST_NAME:
        return user
    return f"sha256:{sha256(user.encode('utf-8', 'replace')).hexdigest()}"


def outcome(call: Call, result: entries.Result, at_ms: int) -> bytes:
    """What became of an admitted call."""
    assert call.place is not None
    total_ms = round((_monotonic() - call.started_s) * 1_000)
    first_s, usage = call.first_byte_s, call.usage
    if result == "served" and usage is not None and first_s is not None and not call.degraded and is_plain(call):
        # What `encode` gives for this, the most frequent of entries, in a fraction of the time.
        return (
            b'{"outcome":{"at_ms":%d,"decision":"%b","first_byte_ms":%d,"legs":[{"ms":%d,"result":"answered",'
            b'"upstream":%b}],"result":"served","status":%d,"total_ms":%d,"usage":{"cached":%d,"completion":%d,'
            b'"prompt":%d,"reasoning":%d,"source":"reported"}}}'
        ) % (
            *(at_ms, call.place.text.encode(), round((first_s - call.started_s) * 1_000), call.attempts_ms[0]),
            *(msgspec.json.encode(call.attempts[0][0]), call.status, total_ms),
            *(usage.cached, usage.completion, usage.prompt, usage.reasoning),
        )
    return encode(
        Outcome(
            at_ms=at_ms,
            decision=call.place.text,
            degraded=call.degraded or UNSET,
            first_byte_ms=UNSET if first_s is None else round((first_s - call.started_s) * 1_000),
            legs=[
                Leg(ms, tried, upstream, cost)
                for (upstream, tried), ms, cost in zip(
                    call.attempts, call.attempts_ms, call.attempts_usage, strict=True
                )
            ],
            result=result,
            status=call.status,
            total_ms=total_ms,
            usage=used(call),
        )
    )


def is_plain(call: Call) -> bool:
    """One try, answered, that cost nothing beside."""
    return len(call.attempts) == 1 and call.attempts[0][1] == "answered" and call.attempts_usage[0] is UNSET


def used(call: Call) -> Usage | msgspec.UnsetType:
    """As the upstream reported it; else a stream's events are counted, a token each, and everything else is estimated.

    An error that an upstream gave cost nothing.
    """
    usage = call.usage
    if usage is not None:
        return Usage(usage.cached, usage.completion, usage.prompt, usage.reasoning, "reported")
    if call.first_byte_s is None or call.status >= 400:
        return UNSET
    prompt = estimated(call.exchange.request.body)
    if call.streams:
        return Usage(0, call.relayed_events, prompt, 0, "counted")
    return Usage(0, call.estimated, prompt, 0, "estimated")


def spent(call: Call, response: Response | None) -> Usage | msgspec.UnsetType:
    """What a try cost that did not give the client its answer: nothing, unless the upstream had begun to give one.

    It has read the prompt then. What it went on to write is known only where its report of it arrived before the end.
    """
    if response is None or response.status >= 300 or not response.headers.get("content-type", "").startswith(ANSWERS):
        return UNSET
    usage = usage_in_part(response.received)
    if usage is not None:
        return Usage(usage.cached, usage.completion, usage.prompt, usage.reasoning, "reported")
    return Usage(0, 0, estimated(call.exchange.request.body), 0, "estimated")
