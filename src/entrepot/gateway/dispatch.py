"""dispatch: try the permitted targets in their order until one gives an answer worth relaying."""

from __future__ import annotations

import logging
import random
from typing import Final, NoReturn, final

from msgspec import UNSET

from entrepot.errors import Code, Error
from entrepot.gateway.call import Admission, Call
from entrepot.gateway.records import spent
from entrepot.gateway.upstreams import Line, Lines, now_s
from entrepot.http1.client import Fault, Response
from entrepot.providers.answers import Meaning, meaning_of
from entrepot.snapshot import Candidate
from entrepot.wire import body
from entrepot.wire.trace import trace_head

ATTEMPTS = 3
ANSWER_BYTES = 64 * 1024 * 1024

log = logging.getLogger(__name__)


@final
class Answer:
    """An upstream's answer: `body` is whole, or None for an event stream whose first bytes have arrived."""

    __slots__ = ("body", "candidate", "response")

    def __init__(self, candidate: Candidate, response: Response, body: bytes | None) -> None:
        self.candidate: Final = candidate
        self.response: Final = response
        self.body: Final = body


async def dispatch(call: Call, admission: Admission) -> Answer:
    """Raises Error when no permitted target could answer. An answer that is only unwelcome, a 429 say, passes on.

    INVARIANT: only members of `admission.permitted` are ever tried, so no retry or fallback reaches a forbidden target.
    """
    unwelcome: Answer | None = None
    failure: Error | None = None
    for candidate in in_order(admission.permitted, call.lines):
        line = call.lines[candidate.upstream]
        try:
            answer = await attempt(call, candidate, line)
        except Fault as fault:
            failure = faulty(candidate, line, fault)
            continue
        meaning = Meaning.RELAY if answer.body is None else meaning_of(answer.response.status, answer.body)
        if meaning is Meaning.RELAY:
            if answer.body is not None:  # a stream has to come to its end first
                line.health.succeeded()
            return answer
        if meaning is Meaning.RETRY:
            unwelcome = answer
            busy(answer, line)
            continue
        failure = refused(meaning, answer, line)
        if meaning is Meaning.TERRITORY:
            raise failure
    if unwelcome is not None:
        return unwelcome
    raise failure or Error(Code.NO_TARGET, "no upstream serves this deployment")


def in_order(permitted: tuple[Candidate, ...], lines: Lines) -> tuple[Candidate, ...]:
    """At most `ATTEMPTS`: those in good health first, then lower priority, then by lot weighted among equals."""
    if len(permitted) == 1:
        return permitted
    now = now_s()
    order = sorted(
        permitted,
        key=lambda c: (not lines[c.upstream].health.ready(now), c.priority, random.expovariate(1) / c.weight),
    )
    return tuple(order[:ATTEMPTS])


async def attempt(call: Call, candidate: Candidate, line: Line) -> Answer:
    """One try at one target. Raises Fault; a cancelled call closes its upstream connection (`http1.client`)."""
    call.candidate = candidate
    call.fields["model"] = candidate.model
    line.health.tried()
    began_s = now_s()
    result = "abandoned"
    begun: list[Response] = []  # not a variable that is None at first: compiled, it would have to be a Response below
    try:
        target = candidate.targets[call.operation]
        head = candidate.head + trace_head(call.exchange.request.headers)
        response = await line.pool.send("POST", target, head, body.encode(call.fields))
        begun.append(response)
        answer = at_once(candidate, response) or await answered(candidate, response)
        result = "answered"
    except Fault:
        result = "failed"
        raise
    finally:
        line.health.left()
        call.attempts += ((candidate.upstream, result),)
        call.attempts_ms += (round((now_s() - began_s) * 1_000),)
        call.attempts_usage += (UNSET if result == "answered" else spent(call, begun[0] if begun else None),)
    return answer


def at_once(candidate: Candidate, response: Response) -> Answer | None:
    """An answer that came whole with its head, as short ones do. Raises Fault."""
    body = None if is_stream(response) else response.whole(ANSWER_BYTES)
    return None if body is None else Answer(candidate, response, sensible(response, body))


async def answered(candidate: Candidate, response: Response) -> Answer:
    """The whole answer, or a stream that has begun. Raises Fault, also for a success that is none."""
    if not is_stream(response):
        return Answer(candidate, response, sensible(response, await response.read(ANSWER_BYTES)))
    if not await response.first():
        nonsense(response, "an event stream without an event")
    return Answer(candidate, response, None)


def is_stream(response: Response) -> bool:
    """Raises Fault for what is no use, whatever it is."""
    if response.headers.get("content-encoding", "identity") != "identity":
        nonsense(response, "it is compressed, although that was not asked for")
    return response.status == 200 and response.headers.get("content-type", "").startswith("text/event-stream")


def sensible(response: Response, body: bytes) -> bytes:
    if response.status < 300:
        text = body.strip()
        if not (text.startswith(b"{") and text.endswith(b"}")):
            nonsense(response, "a success without a JSON object, such as a maintenance page")
    return body


def nonsense(response: Response, what: str) -> NoReturn:
    response.abort()
    raise Fault("protocol", f"the upstream's answer makes no sense: {what}")


def faulty(candidate: Candidate, line: Line, fault: Fault) -> Error:
    line.health.failed(now_s())
    log.warning("upstream failed", extra={"fields": {"upstream": candidate.upstream, "fault": fault.kind}})
    if fault.kind in {"first_byte", "idle", "total"}:
        return Error(Code.UPSTREAM_TIMEOUT, "the model did not answer in time")
    return Error(Code.UPSTREAM_FAULT, "the model could not be reached")


def busy(answer: Answer, line: Line) -> None:
    """408, 409, 429 or 5xx: the upstream works badly, or is at its limit."""
    status = answer.response.status
    if status == 429:
        line.health.asked_to_wait(now_s(), retry_after_s(answer.response.headers.get("retry-after", "")))
        return
    line.health.failed(now_s())
    log.warning("upstream failed", extra={"fields": {"upstream": answer.candidate.upstream, "status": status}})


def refused(meaning: Meaning, answer: Answer, line: Line) -> Error:
    """The upstream refuses the operator, not the client: somebody has to look at it."""
    fields = {"upstream": answer.candidate.upstream, "status": answer.response.status}
    if meaning is Meaning.TERRITORY:
        log.error("upstream refuses this territory", extra={"fields": fields})
        return Error(Code.UNSUPPORTED_TERRITORY, "the provider does not offer this service in this territory")
    line.health.failed(now_s())
    log.error("upstream refuses our credential or model name", extra={"fields": fields})
    return Error(Code.UPSTREAM_FAULT, "the model's provider does not accept this service's own configuration")


def retry_after_s(value: str) -> float:
    return float(value) if value.isdecimal() else 1.0
