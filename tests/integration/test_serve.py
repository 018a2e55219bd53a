"""`entrepot serve` as a user runs it: first start, second start, dead children, a dead parent, Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import httpx
import pytest

from entrepot.cli.az_setup import Told, script

START_S = 60.0
T = TypeVar("T")


def free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    found = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return found


def until(look: Callable[[], T | None], what: str, within_s: float = START_S) -> T:
    deadline = time.monotonic() + within_s
    while (found := look()) is None:
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.1)
    return found


@contextmanager
def serving(data: Path, *more: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """The supervisor, and what it printed."""
    command = [sys.executable, "-m", "entrepot", "serve", "--data", str(data), *more]
    with (
        (data.parent / "stderr").open("a") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True) as process,
    ):
        assert process.stdout is not None
        told: dict[str, str] = {}
        try:
            for line in process.stdout:
                name, value = re.split(r"\s{2,}", line.strip(), maxsplit=1)
                told[name] = value
                if name == "next":
                    break
            assert "next" in told, (data.parent / "stderr").read_text()[-2_000:]
            yield process, told
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()


def children(pid: int) -> dict[str, int]:
    """Of a supervisor: which process is which."""
    found = {}
    for line in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        words = Path(f"/proc/{line}/cmdline").read_bytes().split(b"\0")
        if len(words) > 3:  # not one that is being born, or dead and not yet looked at
            found[words[3].decode()] = int(line)
    return found


def gone(pid: int) -> bool | None:
    """True, or None while it runs; a zombie whose parent has not looked yet does not run."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return True if state in {"Z", "X"} else None


def arguments() -> tuple[str, ...]:
    management, listen, admin = free_ports(3)
    return (
        f"--management=127.0.0.1:{management}",
        f"--listen=127.0.0.1:{listen}",
        f"--admin-listen=127.0.0.1:{admin}",
    )


def manage(data: Path, url: str) -> httpx.Client:
    """A client that is logged in as the administrator."""
    told = json.loads((data / "control.json").read_text())
    context = ssl.create_default_context(cafile=told["ca"])
    form = {
        "grant_type": "client_credentials",
        "client_id": told["client_id"],
        "client_secret": (data / "admin.secret").read_text(),
    }
    answer = httpx.post(f"{url}/adfs/oauth2/token", data=form, verify=context)
    assert answer.status_code == 200, answer.text
    headers = {"authorization": f"Bearer {answer.json()['access_token']}"}
    return httpx.Client(base_url=url, headers=headers, verify=context, params={"api-version": "2025-09-01"}, timeout=30)


@pytest.mark.timeout(300)
def test_one_command_from_nothing_and_again(tmp_path: Path) -> None:
    data, given = tmp_path / "data", arguments()
    with serving(data, *given) as (process, told):
        for path in data.rglob("*"):
            if path.is_file() and path.suffix in {".key", ".secret", ".db", ".json"}:
                assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
        secret = (data / "admin.secret").read_text()
        assert told["secret"].startswith(secret)
        assert told["next"] == f'eval "$(entrepot az-setup --data {data})"'
        assert not (data / "gateways/gateway-1/enrol.token").exists()
        with manage(data, told["management"]) as client:
            (subscription,) = client.get("/subscriptions").json()["value"]
            assert subscription["displayName"] == "Local"
            regions = client.get("/providers/Entrepot.Access/regions").json()["value"]
            assert {"eastus2", "chinaeast2", "local"} <= {each["name"] for each in regions}
            (release,) = client.get("/providers/Entrepot.Access/policyReleases").json()["value"]
            assert release["properties"]["state"] == "inForce"
            gateway = client.get("/providers/Entrepot.Access/gateways/gateway-1")
            assert gateway.status_code == 200
        refused = httpx.post(f"{told['data plane']}/v1/chat/completions", json={})
        assert refused.status_code == 401

        # A dead child comes back; the other does not notice.
        running = children(process.pid)
        os.kill(running["control"], signal.SIGKILL)
        until(
            lambda: True if children(process.pid).get("control", 0) not in {0, running["control"]} else None, "restart"
        )
        assert children(process.pid)["gateway"] == running["gateway"]
        with manage_when_up(data, told["management"]) as client:
            assert client.get("/subscriptions").json()["value"] == [subscription]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0

    with serving(data, *given) as (process, told):
        assert "secret" not in told
        with manage(data, told["management"]) as client:
            assert client.get("/subscriptions").json()["value"] == [subscription]
            changes = client.get("/healthz").json()["revision"]
        running = children(process.pid)
        process.kill()
        for pid in running.values():
            until(lambda pid=pid: gone(pid), "the end of a child whose parent is dead")  # type: ignore[misc]

    with serving(data, *given) as (_, told), manage(data, told["management"]) as client:
        assert client.get("/healthz").json()["revision"] == changes  # a start changes nothing


def manage_when_up(data: Path, url: str) -> httpx.Client:
    def look() -> httpx.Client | None:
        try:
            return manage(data, url)
        except httpx.TransportError:
            return None

    return until(look, "an answer")


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [sys.executable, "-m", "entrepot", "serve", "--data", str(tmp_path / "data")]
        command.append(f"--management=127.0.0.1:{taken.getsockname()[1]}")
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "cannot listen on" in done.stderr
    assert "nothing is served: the control plane did not start" in done.stderr


def test_az_setup_prints_a_script_for_any_posix_shell(tmp_path: Path) -> None:
    told = Told("https://127.0.0.1:8443", "/it's here/ca.pem", "t", "c")
    text = script(told, tmp_path / "with space" / "admin.secret")
    subprocess.run(["sh", "-n"], input=text, text=True, check=True)
    log = tmp_path / "log"
    (tmp_path / "az").write_text(
        f'#!/bin/sh\nprintf "%s|" "$REQUESTS_CA_BUNDLE" "$@" >> {log}; echo >> {log}\n[ "$2" != show ]\n'
    )
    (tmp_path / "az").chmod(0o755)
    subprocess.run(["sh"], input=text, text=True, check=True, env={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    lines = log.read_text().splitlines()
    assert [re.sub(r"^[^|]*\|", "", line).split("|")[:2] for line in lines] == [
        ["cloud", "show"],
        ["cloud", "register"],
        ["cloud", "set"],
        ["login", "--service-principal"],
    ]
    assert all(line.startswith("/it's here/ca.pem|") for line in lines)
    assert f"|@{tmp_path}/with space/admin.secret|" in lines[-1]
    done = subprocess.run(
        [sys.executable, "-m", "entrepot", "az-setup", "--data", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "entrepot serve --data" in done.stderr
