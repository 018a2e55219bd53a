"""The control plane's own metrics, to its own machine only."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from entrepot.clock import wall_clock_ms
from entrepot.management.metrics import _local
from entrepot.management.publish import Seen
from entrepot.snapshot import Revision
from planes import plane


def test_what_a_control_plane_tells_of_itself_and_its_gateways(tmp_path: Path) -> None:
    with plane(tmp_path) as made:
        admin = made.of("admin")
        at = "/providers/Entrepot.Access/gateways/edge-1"
        assert admin.put(at, json={"properties": {"territory": "SE"}}).status_code in {200, 201}
        publisher = made.control.publisher
        publisher.tell("edge-1", Seen(Revision(1, publisher.revision.n - 1), True, wall_clock_ms() - 5_000, ""))

        def values() -> dict[str, float]:
            answer = httpx.get(f"{made.url}/metrics")
            assert answer.headers["content-type"].startswith("text/plain")
            lines = [line for line in answer.text.splitlines() if not line.startswith("#")]
            return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}

        found = values()
        assert found["entrepot_control_ready"] == 1.0
        assert found["entrepot_control_revision"] == publisher.revision.n
        assert 0 <= found['entrepot_gateway_behind_seconds{gateway="edge-1"}'] < 5
        assert 5 <= found['entrepot_gateway_seen_seconds{gateway="edge-1"}'] < 60
        assert found['entrepot_shipping_refused{gateway="edge-1"}'] == 0.0
        assert found['entrepot_control_requests_total{method="PUT",status="201"}'] >= 1
        publisher.tell("edge-1", Seen(publisher.revision, True, wall_clock_ms(), ""))
        assert values()['entrepot_gateway_behind_seconds{gateway="edge-1"}'] == 0.0
        answer = httpx.request("TRACE", f"{made.url}/metrics")
        name = f'entrepot_control_requests_total{{method="*other*",status="{answer.status_code}"}}'
        assert values()[name] == 1.0


@pytest.mark.parametrize(
    ("peer", "local"),
    [
        *(("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("::ffff:127.0.0.1", True)),
        *(("10.0.0.1", False), ("::ffff:10.0.0.1", False), ("", False), ("localhost", False)),
    ],
)
def test_this_machine_is_told_from_others(peer: str, local: bool) -> None:
    assert _local(peer) is local
