"""What an operator sees of calls: a line for each, where the time went, which deployment; and what a trace gets."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from entrepot.sim.server import simulated
from entrepot.sim.settings import Settings
from harness import CONTENT, FROM_CN, Account, Fleet, Place, Upstream, World, ask, body_of, until

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
KANTO = Account("kanto")


def lines(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == "call"]


def test_each_call_leaves_one_line_and_its_time(fleet: Fleet, tmp_path: Path) -> None:
    with simulated(Settings(api="openai", keep=10)) as sim:
        world = World(tmp_path, [Upstream("main", sim.base_url)], [KANTO], 'access_log = "on"\n')
        world.write()
        with fleet.gateway(world, tmp_path / "home") as gateway:
            trace = {"traceparent": PARENT, "tracestate": "a=1", "x-mine": CONTENT, "user-agent": CONTENT}
            served = ask(gateway.data, "/v1/chat/completions?x=1", body_of(), KANTO.key, trace)
            seen = sim.seen[-1].headers
            assert (seen["traceparent"], seen["tracestate"]) == (PARENT, "a=1")
            streamed = ask(gateway.data, "/v1/chat/completions", body_of(stream=True), KANTO.key, {"traceparent": "no"})
            assert "traceparent" not in sim.seen[-1].headers
            refused = ask(gateway.data, "/v1/chat/completions", body_of(), KANTO.key, source=FROM_CN)
            unknown = ask(gateway.data, "/v1/chat/completions", body_of(), "sk-nobody")
            assert [each.status for each in (served, streamed, refused, unknown)] == [200, 200, 403, 401]
            until(lambda: len(lines(gateway.events)) >= 4, "four lines")
            found = lines(gateway.events)
            assert len(found) == 4
            one = found[0]
            assert one.pop("ms") >= one.pop("first_byte_ms") >= 0
            assert datetime.fromisoformat(one.pop("at")).timestamp() * 1_000 == one.pop("at_ms")
            assert one.pop("prompt_tokens") > 0
            assert one.pop("completion_tokens") > 0
            assert one == {
                "level": "info",
                "from": "entrepot.gateway",
                "event": "call",
                "request": served.headers["apim-request-id"],
                "operation": "chat",
                "status": 200,
                "result": "served",
                "account": "kanto",
                "deployment": "gpt-4o",
                "upstream": "main",
                "region": "japaneast",
                "tries": 1,
                "receipt": served.headers["x-entrepot-receipt"],
            }
            assert (found[1]["result"], found[1]["completion_tokens"] > 0) == ("served", True)
            assert (found[2]["result"], found[2]["code"]) == ("refused", "unsupported_territory")
            assert found[2]["receipt"] == refused.headers["x-entrepot-receipt"]
            assert "upstream" not in found[2]
            assert (found[3]["status"], "account" in found[3]) == (401, False)
            assert CONTENT not in gateway.log
            assert FROM_CN not in gateway.log
            for stage in ("admit", "ledger", "upstream"):
                assert gateway.metric(f'entrepot_stage_seconds_count{{stage="{stage}"}}') == 2.0
            labels = 'account="kanto",deployment="gpt-4o",result='
            assert gateway.metric(f'entrepot_deployment_calls_total{{{labels}"served"}}') == 2.0
            assert gateway.metric(f'entrepot_deployment_calls_total{{{labels}"{found[2]["code"]}"}}') == 1.0
            # An address only where it is asked for; nothing at all where it is off.
            for value, number in (("address", 5), ("off", 5)):
                world.gateway = f'access_log = "{value}"\n'
                revision = gateway.readiness()["revision"]
                world.write()
                gateway.revision(revision + 1)
                ask(gateway.data, "/v1/chat/completions", body_of(), KANTO.key)
                until(lambda number=number: len(lines(gateway.events)) >= number, "a line")  # type: ignore[misc]
            assert lines(gateway.events)[4]["address"] == "127.0.0.1"
        assert len(lines(gateway.events)) == 5


def test_a_standard_error_that_nobody_reads_keeps_no_call_waiting(tmp_path: Path) -> None:
    with simulated(Settings(api="openai", keep=10)) as sim:
        world = World(tmp_path, [Upstream("main", sim.base_url)], [KANTO], 'access_log = "on"\n')
        world.write()
        read, write = os.pipe()
        command = [sys.executable, "-m", "entrepot", "gateway", "--world", str(tmp_path), "--data", str(tmp_path / "d")]
        environ = {**os.environ, "UPSTREAM_KEY": world.upstream_key}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=write, env=environ, text=True)
        os.close(write)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            host, _, port = line.split(" on http://")[1].split(" ")[0].partition(":")
            place = Place(host, int(port))
            for _ in range(400):  # some 130 KB of lines, and a pipe takes 64
                assert ask(place, "/v1/chat/completions", body_of(), KANTO.key, timeout_s=5).status == 200
        finally:
            os.close(read)
            process.terminate()
            process.communicate(timeout=30)
