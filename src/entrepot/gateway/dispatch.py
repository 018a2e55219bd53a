"""dispatch: try the permitted targets in their order until one gives an answer worth relaying."""

from __future__ import annotations

import logging
import random

import msgspec

from entrepot.errors import Code, Error
from entrepot.gateway.call import Admission, Call
from entrepot.gateway.upstreams import Line, Lines, now_s
from entrepot.http1.client import Fault, Response
from entrepot.providers.answers import Meaning, meaning_of
from entrepot.snapshot import Candidate
from entrepot.wire import body

ATTEMPTS = 3
ANSWER_BYTES = 64 * 1024 * 1024

log = logging.getLogger(__name__)


class Answer(msgspec.Struct, frozen=True):
    """An upstream's answer: `body` is whole, or None for an event stream whose first bytes have arrived."""

    candidate: Candidate
    response: Response
    body: bytes | None


async def dispatch(call: Call, admission: Admission) -> Answer:
    """Raises Error when no permitted target could answer.

    INVARIANT: only members of `admission.permitted` are ever tried, so no retry or fallback reaches a forbidden target.
    """
    failure: Error | None = None
    answer: Answer | None = None
    for candidate in attempts(admission.permitted, call.lines):
        call.attempts += 1
        call.candidate = candidate
        line = call.lines[candidate.upstream]
        try:
            answer = await attempt(call, candidate, line)
        except Fault as fault:
            failure, answer = faulty(candidate, line, fault), None
            continue
        meaning = Meaning.RELAY if answer.body is None else meaning_of(answer.response.status, answer.body)
        if meaning is Meaning.RELAY:
            line.health.succeeded()
            return answer
        failure = judged(meaning, answer, line)
        if meaning is Meaning.TERRITORY:
            break
    if failure is None and answer is not None:
        return answer
    raise failure or Error(Code.NO_TARGET, "no upstream serves this deployment")


def attempts(permitted: tuple[Candidate, ...], lines: Lines) -> list[Candidate]:
    """At most `ATTEMPTS`, in order: those in good health first, then lower priority, then by lot weighted among equals.

    A sole target is tried twice: its first failure may have been the connection's.
    """
    if len(permitted) == 1:
        return [permitted[0], permitted[0]]
    now = now_s()
    order = sorted(
        permitted,
        key=lambda c: (not lines[c.upstream].health.ready(now), c.priority, random.expovariate(1) / c.weight),
    )
    return order[:ATTEMPTS]


async def attempt(call: Call, candidate: Candidate, line: Line) -> Answer:
    """One try at one target. Raises Fault; a cancelled call closes its upstream connection (`http1.client`)."""
    call.fields["model"] = candidate.model
    head = candidate.head
    line.health.tried()
    try:
        response = await line.pool.send("POST", candidate.targets[call.operation], head, body.encode(call.fields))
        if response.status == 200 and response.headers.get("content-type", "").startswith("text/event-stream"):
            await response.first()
            return Answer(candidate, response, None)
        return Answer(candidate, response, await response.read(ANSWER_BYTES))
    finally:
        line.health.left()


def faulty(candidate: Candidate, line: Line, fault: Fault) -> Error:
    line.health.failed(now_s())
    log.warning("upstream failed", extra={"fields": {"upstream": candidate.upstream, "fault": fault.kind}})
    if fault.kind in {"first_byte", "idle", "total"}:
        return Error(Code.UPSTREAM_TIMEOUT, "the model did not answer in time")
    return Error(Code.UPSTREAM_FAULT, "the model could not be reached")


def judged(meaning: Meaning, answer: Answer, line: Line) -> Error | None:
    """Book the answer to the upstream's health. None: if no other target does better, the client gets this answer."""
    fields = {"upstream": answer.candidate.upstream, "status": answer.response.status}
    if meaning is Meaning.OPERATOR:
        line.health.failed(now_s())
        log.error("upstream refuses our credential or model name", extra={"fields": fields})
        return Error(Code.UPSTREAM_FAULT, "the model's provider does not accept this service's own configuration")
    if meaning is Meaning.TERRITORY:
        log.error("upstream refuses this territory", extra={"fields": fields})
        return Error(Code.UNSUPPORTED_TERRITORY, "the provider does not offer this service in this territory")
    if answer.response.status == 429:
        line.health.asked_to_wait(now_s(), retry_after_s(answer.response.headers.get("retry-after", "")))
    else:
        line.health.failed(now_s())
        log.warning("upstream failed", extra={"fields": fields})
    return None


def retry_after_s(value: str) -> float:
    return float(value) if value.isdigit() else 1.0
