"""A machine is lost: what a backup, taken while all was running, brings back, and what gateways make of it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from entrepot.ledger.verify import check, find_key
from servings import free_ports, manage, until


def entrepot(*words: str) -> str:
    done = subprocess.run([sys.executable, "-m", "entrepot", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def process(log: Path, sign: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """From the line of its output that begins with `sign` on."""
    command = [sys.executable, "-m", "entrepot", *words]
    with (
        log.open("a") as stderr,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, start_new_session=True) as running,
    ):
        assert running.stdout is not None
        try:
            assert any(line.startswith(sign) for line in running.stdout), log.read_text()[-3_000:]
            yield running
        finally:
            if running.poll() is None:
                running.send_signal(signal.SIGTERM)
            try:
                running.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(running.pid, signal.SIGKILL)
                raise


def put(client: httpx.Client, at: str, properties: dict[str, Any], **more: Any) -> None:
    answer = client.put(at, json={"properties": properties, **more})
    assert answer.status_code in {200, 201}, answer.text


def follows(client: httpx.Client, name: str) -> str | None:
    status = client.get(f"/providers/Entrepot.Access/gateways/{name}").json()["properties"]["status"]
    now = client.get("/healthz").json()["revision"]
    return str(status["revision"]) if status["ready"] and status["revision"] == now else None


@pytest.mark.timeout(120)
def test_a_lost_control_plane_comes_back(tmp_path: Path) -> None:
    data, edge, log = tmp_path / "data", tmp_path / "edge", tmp_path / "log"
    management, listen, admin = free_ports(3)
    url = f"https://127.0.0.1:{management}"
    control = ("control", "--data", str(data), "--listen", f"127.0.0.1:{management}", "--territory", "SE")
    gateway = ("gateway", "--control", url, "--data", str(edge))
    with ExitStack() as stack:
        first = stack.enter_context(process(log, "managing on ", *control))
        secret = (data / "admin.secret").read_text()
        with manage(data, url) as client:
            put(
                client,
                "/providers/Entrepot.Access/gateways/edge-1",
                {"territory": "SE", "listen": f"127.0.0.1:{listen}", "adminListen": f"127.0.0.1:{admin}"},
            )
            answer = client.post("/providers/Entrepot.Access/gateways/edge-1/enrol")
            stack.enter_context(process(log, "serving ", *gateway, "--enrol", answer.json()["token"]))
            until(lambda: follows(client, "edge-1"), "the gateway's report")
            put(client, "/providers/Entrepot.Access/providers/kept", {})
        shipped = data / "shipped" / "edge-1"
        until(lambda: (shipped / "ledger" / "logs").exists() or None, "shipping")
        # Taken while all is running.
        told = entrepot("storage", "backup", str(tmp_path / "backup"), "--data", str(data), "--private")
        assert re.search(r"[1-9]\d* entries of ledgers, verified", told)
        with manage(data, url) as client:
            put(client, "/providers/Entrepot.Access/providers/lost", {})
            before = until(lambda: follows(client, "edge-1"), "the gateway's taking over of what will be lost")
        first.kill()
        first.wait()
        master = (data / "master.key").read_bytes()
        shutil.rmtree(data)

        # As docs/operations.md has it.
        shutil.copytree(tmp_path / "backup", data)
        (data / "control").rename(data / "control-until-restore")
        (data / "master.key").write_bytes(master)
        (data / "master.key").chmod(0o600)
        assert "epoch 2 begins" in entrepot("storage", "restored", "--data", str(data))
        old = data / "control-until-restore"
        verified = entrepot(
            "ledger", "verify", str(old / "ledger"), "--key", str(old / "keys" / "control.vkey"), "--private"
        )
        assert "NOT PROVED" not in verified
        # What was shipped is in it too, with its key: the gateway may be lost as well.
        assert (edge / "keys" / "edge-1.vkey").read_bytes() == (shipped / "keys" / "edge-1.vkey").read_bytes()
        assert not check(shipped / "ledger", find_key(str(shipped / "keys" / "edge-1.vkey"))).findings()
        stack.enter_context(process(log, "managing on ", *control))
        (data / "admin.secret").write_text(secret)
        with manage(data, url) as client:
            names = [each["name"] for each in client.get("/providers/Entrepot.Access/providers").json()["value"]]
            assert "kept" in names
            assert "lost" not in names
            after = until(lambda: follows(client, "edge-1"), "the gateway following again")
            assert (before[:2], after[:2]) == ("1.", "2.")
            put(client, "/providers/Entrepot.Access/providers/fresh", {})
            until(lambda: follows(client, "edge-1"), "a change after the restore")
        # The gateway's ledger is shipped anew, whole, and is what the gateway has.
        copy = data / "shipped" / "edge-1" / "ledger"
        key = find_key(str(edge / "keys" / "edge-1.vkey"))
        until(lambda: True if (copy / "logs").exists() and not check(copy, key).findings() else None, "shipping")
