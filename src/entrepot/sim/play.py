"""Carries a plan out on one exchange, faults included."""

from __future__ import annotations

import asyncio

from entrepot.http1.connection import Connection
from entrepot.http1.message import status_line
from entrepot.http1.server import Exchange
from entrepot.sim.counters import Counters
from entrepot.sim.plan import Plan

_GARBAGE = b"\x16\x03\x01\x00\xff not a line of HTTP\r\n\r\n"
_DELIVERY_S = 0.02
"""A reset overtakes what was sent just before; so long it is given to arrive."""


async def play(exchange: Exchange, plan: Plan, counters: Counters) -> None:
    """Returns when the answer is given or broken off; is cancelled when the client is gone, also out of a hang."""
    if plan.ttft_s:
        await asyncio.sleep(plan.ttft_s)
    if plan.fault == "hang":
        await _forever()
    counters.prompt_tokens += plan.prompt_tokens
    if plan.fault == "garbage" and not plan.after:
        _break_off(exchange, _GARBAGE)
    elif plan.events is not None:
        await _stream(exchange, plan, counters)
    elif plan.fault is not None:
        await _partly(exchange, plan)
    else:
        counters.completion_tokens += plan.completion_tokens
        exchange.respond(plan.status, plan.head, plan.body)


async def _stream(exchange: Exchange, plan: Plan, counters: Counters) -> None:
    room = asyncio.Event()
    room.set()
    exchange.start(plan.status, plan.head)
    exchange.flow(room.clear, room.set)
    events = plan.events or ()
    for event in events if plan.fault is None else events[: plan.after]:
        exchange.write(event.data)
        counters.completion_tokens += event.tokens
        await asyncio.sleep(plan.pace_s)  # also without a pace: each event is its own write
        if not room.is_set():
            await room.wait()
    if plan.fault is None:
        exchange.finish()
    else:
        await _fail(exchange, plan)


async def _partly(exchange: Exchange, plan: Plan) -> None:
    """A whole answer of which only the first `after` bytes of the body arrive."""
    length = b"content-length: %d\r\n\r\n" % len(plan.body)
    connection = connection_of(exchange)
    if connection is not None:
        connection.send(status_line(plan.status) + plan.head + length + plan.body[: plan.after])
    await _fail(exchange, plan)


async def _fail(exchange: Exchange, plan: Plan) -> None:
    if plan.fault == "stall":
        await _forever()
    elif plan.fault == "reset":
        await asyncio.sleep(_DELIVERY_S)
        connection = connection_of(exchange)
        exchange.lose()
        if connection is not None:
            connection.cut()
    else:
        _break_off(exchange, _GARBAGE if plan.fault == "garbage" else b"")


def _break_off(exchange: Exchange, last: bytes) -> None:
    connection = connection_of(exchange)
    exchange.lose()
    if connection is not None:
        connection.send(last)
        connection.answered(keep=False)


def connection_of(exchange: Exchange) -> Connection | None:
    """The engine keeps answers well-formed; a simulated fault has to reach past that."""
    return exchange._connection


async def _forever() -> None:
    await asyncio.Event().wait()
