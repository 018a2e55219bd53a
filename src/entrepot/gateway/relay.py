"""relay: the upstream's answer to the client, whole or as it comes, with usage read on the way."""

from __future__ import annotations

import logging
from contextlib import suppress

from entrepot.errors import Code, Error
from entrepot.gateway.call import Call
from entrepot.gateway.dispatch import Answer
from entrepot.gateway.heads import answer_head
from entrepot.gateway.upstreams import now_s
from entrepot.http1.client import Fault
from entrepot.wire.passed import passed_on
from entrepot.wire.problems import render
from entrepot.wire.sse import Relay, error_event
from entrepot.wire.usage import estimated, usage_of

log = logging.getLogger(__name__)


async def relay(call: Call, answer: Answer) -> None:
    """Ends when the client has been given everything, or raises CancelledError when the client has gone."""
    if answer.body is None:
        await stream(call, answer)
        return
    status = call.status = answer.response.status
    body = answer.body
    if status < 400:
        call.usage = usage_of(body)
        if call.usage is None and call.operation != "embeddings":
            call.estimated = estimated(body)
    else:
        body = passed_on(status, body, call.form)
        answer.response.headers["content-type"] = "application/json"
        if status < 500 and status not in {408, 409, 429}:
            answer.response.headers.setdefault("x-should-retry", "false")
    call.first_byte_s = now_s()
    call.exchange.respond(status, answer_head(call, answer), body)


async def stream(call: Call, answer: Answer) -> None:
    """Never silent about a cut: what the upstream did not finish ends in an error event."""
    exchange, response = call.exchange, answer.response
    events = Relay(keep_usage=call.usage_asked)
    call.status = response.status
    call.first_byte_s = now_s()
    exchange.start(response.status, answer_head(call, answer))
    exchange.flow(response.pause, response.resume)

    def forward(block: bytes) -> None:
        ready = events.feed(block)
        if ready:
            exchange.write(ready)

    try:
        with suppress(Fault, Error):  # what is missing then is told below
            await response.relay(forward)
            rest = events.finish()
            if rest:
                exchange.write(rest)
    finally:
        call.usage, call.relayed_events, call.cut = events.usage, events.events, not events.done
    upstream = answer.candidate.upstream
    health = call.lines[upstream].health
    if call.cut:
        health.failed(now_s())
        log.warning("upstream broke off", extra={"fields": {"upstream": upstream}})
    else:
        health.succeeded()
    if call.cut and not events.error:
        cut = Error(Code.UPSTREAM_CUT, "the model's answer broke off; what was received so far is incomplete")
        exchange.write(error_event(render(cut, call.form)))
    exchange.finish()
