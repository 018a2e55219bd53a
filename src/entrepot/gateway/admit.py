"""admit: who calls, for what, from where, and to which targets the call may go. Nothing goes upstream without it."""

from __future__ import annotations

from entrepot.errors import Code, Error
from entrepot.gateway.authenticate import authenticate
from entrepot.gateway.call import Admission, Call, Occasion, Verdict
from entrepot.gateway.journal import Journal
from entrepot.gateway.limiting import Limiting
from entrepot.gateway.remembered import remember
from entrepot.gateway.routes import Route
from entrepot.gateway.upstreams import now_s
from entrepot.limits.reserve import Short
from entrepot.origin.resolve import Origin
from entrepot.policy import Decision, Program
from entrepot.snapshot import Account, Candidate, Deployment, Snapshot
from entrepot.wire import body


def read_body(call: Call, route: Route) -> None:
    """Decode the request one level deep: what is decided here is what is sent (`wire.body`)."""
    call.fields = body.decode(call.exchange.request.body)
    call.streams = body.is_stream(call.fields)
    if call.streams and route.operation != "embeddings":
        call.usage_asked = body.ask_for_usage(call.fields)


def find_deployment(call: Call, account: Account, route: Route) -> Deployment:
    """From the path where it has one, else from the body's `model`."""
    name = route.deployment or body.string_field(call.fields, "model")
    if not name:
        raise Error(Code.MODEL_REQUIRED, "you must provide a model parameter", param="model")
    deployment = account.deployments.get(name)
    if deployment is None:
        raise Error(Code.DEPLOYMENT_NOT_FOUND, "no deployment of this name", subject=name)
    return deployment


async def admit(call: Call, route: Route, verdicts: Verdicts, journal: Journal | None, limits: Limiting) -> Admission:
    """Raises Error with the refusal. Every candidate is a decision of its own, all taken at this one instant.

    INVARIANT: the decision is durable before this returns, and before a refusal leaves it. What limits reserve for the
    call stands in it from then on, so that `settle` gives it back whatever happens.
    """
    account = call.account = authenticate(call, route)
    read_body(call, route)
    deployment = call.deployment = find_deployment(call, account, route)
    verdict = verdicts.on(account, deployment, Occasion(call.at_ms, origin_of(call, account), route.operation))
    admission = verdict.admission
    try:
        refused = limits.reserve(call, permitted=admission is not None)
    except Short:
        refused = await limits.reserve_there(call, permitted=admission is not None)
    if admission is None and refused is None:
        refused = refusal(account, verdict.decisions)
    call.judged_s = now_s()
    if journal is None:
        pass
    elif refused is not None and journal.aggregated.is_past(call):
        journal.aggregated.add(call, refused, verdict.decisions)
    else:
        await journal.decide(call, verdict, refused)
    call.decided_s = now_s()
    if refused is not None:
        raise refused
    assert admission is not None, "no call is admitted without a permitted target"
    return admission


def origin_of(call: Call, account: Account) -> Origin:
    snapshot, request = call.snapshot, call.exchange.request
    return snapshot.origins.resolve(request.peer, request.headers.get(snapshot.origin_header), account.egress)


class Verdicts:
    """Of one snapshot. What is the same for many calls is judged once, for as long as nothing in it changes with time.

    INVARIANT: `on` gives what `judge` and `announced` would: the memory only saves the way there.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._known: dict[tuple[int, int, int, str], Verdict] = {}

    def on(self, account: Account, deployment: Deployment, occasion: Occasion) -> Verdict:
        """Accounts of one standing share verdicts, and so do deployments of the same targets.

        `account` and `deployment` are the snapshot's: nothing else gets the ids of their parts; a verdict holds its
        origin.
        """
        at_ms, standing = occasion.at_ms, account.standing
        key = (id(standing), id(deployment.candidates), id(occasion.origin), occasion.operation)
        found = self._known.get(key)
        if found is not None and found.since_ms <= at_ms < found.until_ms:
            return found
        snapshot = self._snapshot
        decisions = judge(snapshot.program, account, deployment, occasion)
        permitted = tuple(c for c, decision in zip(deployment.candidates, decisions, strict=True) if decision.permit)
        admission = None
        if permitted:
            refused_from_ms = announced(snapshot, account, permitted, occasion)
            admission = Admission(occasion.origin, permitted, decisions, refused_from_ms)
        until_ms = min(standing.timeline.at(at_ms)[1], snapshot.program.segment(at_ms)[1] - snapshot.warn_ms)
        found = Verdict(occasion.origin, standing.facts_at(at_ms), decisions, admission, (at_ms, until_ms))
        if until_ms > at_ms:  # else a change is near, and what is told of it changes as well
            remember(self._known, key, found)
        return found


def judge(program: Program, account: Account, deployment: Deployment, occasion: Occasion) -> tuple[Decision, ...]:
    """One decision per candidate of the deployment, in their order. Pure."""
    mask = known(program, account, occasion) & program.segment(occasion.at_ms)[0]
    return tuple([program.decide(mask & candidate.mask) for candidate in deployment.candidates])


def known(program: Program, account: Account, occasion: Occasion) -> int:
    """The policy mask of all that is known of a call, but for its target and the time."""
    origin, tables = occasion.origin, program.tables
    return (
        account.standing.timeline.at(occasion.at_ms)[0]
        & tables["origin.territory"][origin.territory]
        & tables["origin.network"][origin.network]
        & tables["origin.attested"]["true" if origin.attested else "false"]
        & tables["operation"][occasion.operation]
    )


def announced(snapshot: Snapshot, account: Account, permitted: tuple[Candidate, ...], occasion: Occasion) -> int | None:
    """When a rule that is to take effect within `warn_ms` will leave such a call no target; None if none will."""
    program, at_ms = snapshot.program, occasion.at_ms
    if program.segment(at_ms)[1] - at_ms > snapshot.warn_ms:
        return None
    mask = known(program, account, occasion)
    ends = [program.refused_from(mask & candidate.mask, at_ms, snapshot.warn_ms) for candidate in permitted]
    return None if None in ends else max(end for end in ends if end is not None)


def refusal(account: Account, decisions: tuple[Decision, ...]) -> Error:
    """What the client learns: the first candidate's deciding rule, by its code and reason, never a name of ours."""
    if not decisions:
        return Error(Code.NO_TARGET, "no upstream serves this deployment")
    told = decisions[0]
    code = Code.ACCESS_DENIED
    if told.code == Code.UNSUPPORTED_TERRITORY.label and account.given.channel == "direct":
        code = Code.UNSUPPORTED_TERRITORY
    return Error(code, told.reason.get("en") or "the access policy does not permit this call", name=told.code)
