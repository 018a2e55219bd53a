"""The control plane's own metrics, to its own machine only."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest

from entrepot.clock import wall_clock_ms
from entrepot.errors import Code, Error
from entrepot.management.changes import ITSELF, gateway_id
from entrepot.management.metrics import _local
from entrepot.management.publish import Seen
from entrepot.management.world import ref
from entrepot.snapshot import Revision
from harness import until
from planes import plane


def test_what_a_control_plane_tells_of_itself_and_its_gateways(tmp_path: Path) -> None:
    with plane(tmp_path) as made:
        admin = made.of("admin")
        at = "/providers/Entrepot.Access/gateways/edge-1"
        assert admin.put(at, json={"properties": {"territory": "SE"}}).status_code in {200, 201}
        publisher = made.control.publisher
        behind = Revision(1, publisher.revision.n - 1)
        publisher.tell("edge-1", Seen(behind, True, wall_clock_ms() + 3_600_000, "", at_s=time.monotonic() - 5))

        def values() -> dict[str, float]:
            answer = httpx.get(f"{made.url}/metrics")
            assert answer.headers["content-type"].startswith("text/plain")
            lines = [line for line in answer.text.splitlines() if not line.startswith("#")]
            return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}

        found = values()
        assert found["entrepot_control_ready"] == 1.0
        assert found["entrepot_control_revision"] == publisher.revision.n
        assert 0 <= found['entrepot_gateway_behind_seconds{gateway="edge-1"}'] < 5
        assert 'entrepot_gateway_seen_seconds{gateway="edge-1"}' not in found  # it is not enrolled
        assert found['entrepot_shipping_refused{gateway="edge-1"}'] == 0.0
        assert found['entrepot_control_requests_total{method="PUT",status="201"}'] >= 1
        publisher.tell("edge-1", Seen(publisher.revision, True, wall_clock_ms(), ""))
        assert values()['entrepot_gateway_behind_seconds{gateway="edge-1"}'] == 0.0
        answer = httpx.request("TRACE", f"{made.url}/metrics")
        name = f'entrepot_control_requests_total{{method="*other*",status="{answer.status_code}"}}'
        assert values()[name] == 1.0


def test_a_gateway_that_never_asked_is_silent_since_the_start(tmp_path: Path) -> None:
    """So that nobody who restarts a control plane turns off the alert on a gateway that is away."""
    with plane(tmp_path) as made:
        control = made.control
        made.of("admin").put("/providers/Entrepot.Access/gateways/edge-1", json={"properties": {"territory": "SE"}})

        async def enrolled() -> None:
            async with control.change(ITSELF, "test") as change:
                await change.put_secret(ref(gateway_id("edge-1"), "secret"), b"0" * 64)

        made.run(enrolled())
        control.publisher.begun_s -= 500
        series = 'entrepot_gateway_seen_seconds{gateway="edge-1"}'

        def seen() -> float:
            lines = httpx.get(f"{made.url}/metrics").text.splitlines()
            return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(series))

        assert 500 <= seen() < 600
        # A clock that was set does not make it silent.
        told = Seen(None, True, wall_clock_ms() - 3_600_000, "", at_s=time.monotonic() - 5)
        control.publisher.tell("edge-1", told)
        assert 5 <= seen() < 60


def test_a_control_plane_whose_database_is_away_is_not_ready(tmp_path: Path) -> None:
    with plane(tmp_path) as made:

        async def away() -> tuple[int, int]:
            raise Error(Code.NOT_READY, "the database does not answer")

        def ready() -> str:
            text = httpx.get(f"{made.url}/metrics").text
            return next(line for line in text.splitlines() if line.startswith("entrepot_control_ready "))[-3:]

        there = made.control.store.revision
        made.control.store.revision = away  # type: ignore[method-assign]
        until(lambda: ready() == "0.0", "the control plane is not ready")
        made.control.store.revision = there  # type: ignore[method-assign]
        until(lambda: ready() == "1.0", "the control plane is ready again")


@pytest.mark.parametrize(
    ("peer", "local"),
    [
        *(("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("::ffff:127.0.0.1", True)),
        *(("10.0.0.1", False), ("::ffff:10.0.0.1", False), ("", False), ("localhost", False)),
    ],
)
def test_this_machine_is_told_from_others(peer: str, local: bool) -> None:
    assert _local(peer) is local
