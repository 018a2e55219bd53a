"""The small pure parts of the data plane: keys and hosts, ids, what parent and workers say, metrics, outcomes."""

from __future__ import annotations

import asyncio
import re
import socket
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrepot.errors import Code, Error
from entrepot.gateway.access_log import Instants
from entrepot.gateway.authenticate import credential, named_by_host
from entrepot.gateway.channel import Ask, Behind, Channel, Drain, Load, Loaded, Message, Rejected, Status
from entrepot.gateway.ids import Ids, as_openai
from entrepot.gateway.metrics import CATALOGUE
from entrepot.gateway.settle import outcome
from entrepot.gateway.watch import watched
from entrepot.snapshot import Revision
from entrepot.telemetry.metrics import BUCKETS_S, Metrics, Report, exposition

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({}, None),
        ({"authorization": "Bearer k"}, "k"),
        ({"authorization": "bEaReR  k "}, "k"),
        ({"authorization": "Bearer"}, None),
        ({"authorization": "Basic k"}, None),
        ({"authorization": "k"}, None),
        ({"authorization": "Bearer a, Bearer b"}, "a, Bearer b"),
        ({"api-key": "k"}, "k"),
        ({"x-api-key": "k"}, "k"),
        ({"api-key": "", "x-api-key": "k"}, "k"),
        ({"api-key": "k", "x-api-key": "k", "authorization": "Bearer k"}, "k"),
        ({"api-key": "k", "authorization": "Basic other"}, "k"),
    ],
)
def test_where_a_key_stands(headers: dict[str, str], key: str | None) -> None:
    assert credential(headers) == key


@pytest.mark.parametrize(
    "headers",
    [
        {"api-key": "a", "x-api-key": "b"},
        {"api-key": "a", "authorization": "Bearer b"},
        {"api-key": "a", "x-api-key": "a", "authorization": "Bearer A"},
    ],
)
def test_two_keys_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(Error) as raised:
        credential(headers)
    assert raised.value.code is Code.CONFLICTING_CREDENTIALS
    assert "Bearer" not in str(raised.value)


@pytest.mark.parametrize(
    ("host", "account"),
    [
        ("a.models.example", "a"),
        ("A.Models.Example:8080", "a"),
        ("a.b.models.example", "a.b"),
        ("models.example", None),
        ("amodels.example", None),
        ("a.models.example.evil", None),
        ("[::1]:8080", None),
        ("", None),
    ],
)
def test_what_a_host_names(host: str, account: str | None) -> None:
    class Domain:
        data_domain = ".models.example"

    assert named_by_host(cast("Any", Domain), {"host": host}) == account


def test_without_a_domain_a_host_names_nothing() -> None:
    class Domain:
        data_domain = None

    assert named_by_host(cast("Any", Domain), {"host": "a.models.example"}) is None


def test_ids_are_guids_and_never_twice_the_same() -> None:
    first, second = Ids(), Ids()
    found = [ids.next() for ids in (first, second) for _ in range(100)]
    assert len(set(found)) == 200
    for guid in found:
        assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-8[0-9a-f]{3}-[0-9a-f]{12}", guid)
        assert re.fullmatch(r"req_[0-9a-f]{32}", as_openai(guid))


def test_messages_arrive_as_they_were_sent() -> None:
    report = Report({"m": {("a", "b"): 1.5}}, {"h": {(): ([1, 0, 2], 0.5)}})
    messages: list[Message] = [
        Load(Revision(1, 3), whole=True, data=b"\x00\xff" * 100_000),
        Ask(),
        Behind(),
        Drain(1.5),
        Loaded(Revision(1, 3)),
        Rejected(Revision(1, 4), "why"),
        _status(report),
    ]

    async def pass_on() -> list[Message | None]:
        ours, theirs = socket.socketpair()
        one, other = await Channel.over(ours), await Channel.over(theirs)

        async def send() -> None:
            for message in messages:
                await one.send(message)
            one.close()

        _, received = await asyncio.gather(send(), _all(other))
        other.close()
        return received

    assert asyncio.run(pass_on()) == [*messages, None]


async def _all(channel: Channel) -> list[Message | None]:
    received: list[Message | None] = []
    while not received or received[-1] is not None:
        received.append(await channel.receive())
    return received


def _status(report: Report) -> Status:
    given: dict[str, Any] = {"revision": Revision(1, 3), "connections": 7, "unhealthy": ("u",), "report": report}
    given |= {field: None for field in Status.__struct_fields__ if field not in given}
    return Status(**given)


def test_counts_of_processes_add_up_and_revisions_do_not() -> None:
    one, other = Metrics(CATALOGUE), Metrics(CATALOGUE)
    for metrics, revision in ((one, 3), (other, 4)):
        metrics.count("entrepot_calls_total", ("chat", "served", "200"), 2)
        metrics.set("entrepot_connections", 5)
        metrics.set("entrepot_world_revision", revision)
        metrics.add_observed("entrepot_call_seconds", ("chat",), [1, *[0] * (len(BUCKETS_S) - 1), 1], 1e9)
    other.count("entrepot_errors_total", ("no_target",))
    text = exposition(CATALOGUE, [_over_the_wire(one), _over_the_wire(other)]).decode()
    lines = text.splitlines()
    assert 'entrepot_calls_total{operation="chat",outcome="served",status="200"} 4.0' in lines
    assert 'entrepot_errors_total{code="no_target"} 1.0' in lines
    assert "entrepot_connections 10.0" in lines
    assert "entrepot_world_revision 4.0" in lines
    assert 'entrepot_call_seconds_count{operation="chat"} 4.0' in lines
    assert 'entrepot_call_seconds_bucket{le="+Inf",operation="chat"} 4.0' in lines
    buckets = [float(line.rpartition(" ")[2]) for line in lines if line.startswith("entrepot_call_seconds_bucket")]
    assert buckets == sorted(buckets)
    assert len(buckets) == len(BUCKETS_S) + 1
    assert buckets[-2] == 2.0
    for name in CATALOGUE:
        assert f"# HELP {name} " in text


def _over_the_wire(metrics: Metrics) -> Report:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(metrics.report()), type=Report)


def test_a_metric_that_nobody_declared_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        Metrics(CATALOGUE).count("entrepot_nonsense")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"client_gone": True, "cut": True}, "client_gone"),
        ({"cut": True}, "cut"),
        ({"status": 200}, "served"),
        ({}, "failed"),
        ({"error": Error(Code.MISSING_KEY, "x"), "status": 401}, "refused"),
        ({"error": Error(Code.UPSTREAM_FAULT, "x"), "status": 502, "admission": object()}, "failed"),
    ],
)
def test_outcomes(given: dict[str, Any], expected: str) -> None:
    class Settled:
        client_gone = cut = False
        error = admission = None
        status = 0

    call = Settled()
    for name, value in given.items():
        setattr(call, name, value)
    assert outcome(cast("Any", call)) == expected


def test_packs_are_watched_before_they_are_there() -> None:
    files = {"world.toml": b'[policy]\npacks = ["p/late.toml", "../outside.toml", "entrepot:base"]\n', "x.toml": b""}
    assert watched(files) >= {"world.toml", "x.toml", "p/late.toml"}
    assert "../outside.toml" not in watched(files)


@given(st.lists(st.integers(0, 4_102_444_800_000), min_size=1), st.integers(0, 999))
def test_the_access_log_has_the_time_of_day_to_the_millisecond(instants: list[int], later_ms: int) -> None:
    text = Instants().text
    for at_ms in [*instants, instants[-1] + later_ms]:
        assert text(at_ms) == (EPOCH + timedelta(milliseconds=at_ms)).isoformat(timespec="milliseconds")
