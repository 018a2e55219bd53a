"""`entrepot serve` as a user runs it: first start, second start, dead children, a dead parent, Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from entrepot.cli.az_setup import Told, script
from entrepot.serve import Child
from servings import arguments, children, gone, manage, serving, until


@pytest.mark.timeout(300)
def test_one_command_from_nothing_and_again(tmp_path: Path) -> None:
    data, given = tmp_path / "data", arguments()
    with serving(data, *given) as (process, told):
        for path in data.rglob("*"):
            if path.is_file() and path.suffix in {".key", ".secret", ".db", ".json"}:
                assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
        secret = (data / "admin.secret").read_text()
        assert secret not in told["secret"]  # a supervisor's log would have it for good
        assert str(data / "admin.secret") in told["secret"]
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


COUNTS = """
import pathlib, signal, sys, time
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
print("ready", flush=True)
while not told:
    time.sleep(0.01)
time.sleep(0.5)
pathlib.Path(sys.argv[1]).write_text(str(len(told)))
"""


def test_a_child_that_cannot_be_started_again_now_is_started_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("entrepot.serve.RESTART_FIRST_S", 0.0)
    runs = 0

    class Failing(Child):
        async def _run(self, sign: str) -> int:
            nonlocal runs
            runs += 1
            if runs == 2:
                raise OSError(11, "Resource temporarily unavailable")
            self._ready.set()
            if runs == 3:
                self.stop()
            return 1

    async def work() -> None:
        await asyncio.wait_for(await Failing("child", list, {}).start("ready"), 10)

    asyncio.run(work())
    assert runs == 3


def test_a_child_is_told_once_to_end(tmp_path: Path) -> None:
    """`entrepot control` takes a second signal for a wish to end at once."""

    async def run() -> None:
        child = Child("child", lambda: [sys.executable, "-c", COUNTS, str(tmp_path / "count")], os.environ)
        task = await child.start("ready")
        child.stop()
        await asyncio.sleep(0.2)
        child.stop()
        await task

    asyncio.run(run())
    assert (tmp_path / "count").read_text() == "1"


def refused(tmp_path: Path, *more: str) -> str:
    command = [sys.executable, "-m", "entrepot", "serve", "--data", str(tmp_path / "data"), *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "[gateway]" not in done.stderr  # whoever serves has no world's file to edit
    return done.stderr


@pytest.mark.parametrize("option", ["--management", "--listen", "--admin-listen"])
def test_a_port_that_is_taken_is_said_with_the_option_that_helps(option: str, tmp_path: Path) -> None:
    given = dict(each.split("=") for each in arguments())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = given[option] = f"127.0.0.1:{taken.getsockname()[1]}"
        told = refused(tmp_path, *(f"{name}={value}" for name, value in given.items()))
    (line,) = [each for each in told.splitlines() if where in each and "Address already in use" in each]
    assert line.endswith(f"; end what listens there, or give another address with `{option} HOST:PORT`")
    child = "control plane" if option == "--management" else "gateway"
    assert told.endswith(f"nothing is served: the {child} did not start; its messages are above\n")


@pytest.mark.parametrize("option", ["--management", "--listen", "--admin-listen"])
def test_an_address_that_is_none_is_said_with_its_option(option: str, tmp_path: Path) -> None:
    given = dict(each.split("=") for each in arguments()) | {option: "127.0.0.1"}
    told = refused(tmp_path, *(f"{name}={value}" for name, value in given.items()))
    assert f"the control plane cannot start: `{option}`: `127.0.0.1` is no `HOST:PORT`\n" in told


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
