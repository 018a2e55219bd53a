"""Writes that wait for the end of a turn: in their order, not at all where few are under way."""

from __future__ import annotations

import asyncio

from test_http1_client_answers import Owner, Wire, answer

from entrepot.http1.outbox import FEW, Outbox
from entrepot.http1.upstream import Connection


class One:
    def __init__(self, name: str, sent: list[str]) -> None:
        self.name, self.sent = name, sent

    def flush(self) -> None:
        self.sent.append(self.name)


def test_what_waits_goes_at_the_end_of_the_turn_in_its_order() -> None:
    sent: list[str] = []

    async def turn() -> None:
        outbox = Outbox(asyncio.get_running_loop(), range(FEW))
        for name in "abc":
            outbox.put(One(name, sent))
        assert sent == []
        await asyncio.sleep(0)
        assert sent == ["a", "b", "c"]
        outbox.put(One("d", sent))
        await asyncio.sleep(0)
        assert sent == ["a", "b", "c", "d"]

    asyncio.run(turn())


def test_where_few_are_under_way_nothing_waits() -> None:
    sent: list[str] = []

    async def turn() -> None:
        Outbox(asyncio.get_running_loop(), range(FEW - 1)).put(One("a", sent))
        assert sent == ["a"]

    asyncio.run(turn())


def test_what_an_upstream_says_before_it_was_asked_is_no_answer() -> None:
    async def turn() -> None:
        loop = asyncio.get_running_loop()
        wire, owner = Wire(), Owner(loop)
        owner.outbox = Outbox(loop, range(FEW))
        connection = Connection(owner, loop)
        connection.connection_made(wire)  # type: ignore[arg-type]
        response, _ = connection.begin(b"request", 1.0, 1.0)
        assert wire.written == b""
        connection.data_received(answer(b"content-length: 1", body=b"a"))
        assert connection.unheard  # so the pool sends it once more, over another
        assert response._failure is not None
        assert wire.ended == "abort"
        await asyncio.sleep(0)
        assert wire.written == b"", "no request follows on a connection that was given up"

    asyncio.run(turn())
