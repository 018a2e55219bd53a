"""`entrepot serve` as its own process on free ports, for tests that use it as its users do."""

from __future__ import annotations

import json
import random
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import httpx

START_S = 60.0
T = TypeVar("T")


def free_ports(count: int) -> list[int]:
    """Below those that the system gives to outgoing connections, one of which might come in between."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(20_000, 32_000)
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        found.append(port)
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
