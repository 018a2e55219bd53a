"""The demo as its user runs it: a real engine, `entrepot serve`, every step ending as it should."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

DEMO = (sys.executable, "-m", "entrepot", "demo", "--port", "0", "--management-port", "0")
REFUSED = "refused    li-lei-ai/assistant: CannotDeployDueToLocalRegulations"


@pytest.mark.timeout(300)
def test_the_walk(tmp_path: Path) -> None:
    done = subprocess.run(
        [*DEMO, "--once"],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    shown = done.stdout
    assert shown.count("An entrepot is a port where goods are brought in") == 4
    assert shown.count("processed  Japan East") == 4
    assert shown.count("nothing was sent upstream") == 2
    assert '"code":"unsupported_country_region_territory"' in shown
    assert shown.count("reviewer   entrepot policy approve") == 3
    opening, agreed = shown.split("3. Two people make the enterprise eligible")
    assert "refused    robotics-ai/assistant: CannotDeployDueToLocalRegulations" in opening
    assert "refused    robotics-ai" not in agreed
    assert REFUSED in opening
    assert REFUSED in agreed
    assert "permit by BASE-01 at 2024-07-08T23:59:59Z" in shown
    assert re.search(r"proved: entry \d+ is in the log", shown)
    assert not any(tmp_path.iterdir())


@pytest.mark.timeout(300)
def test_it_keeps_running_until_it_is_told_to_end_and_leaves_nothing_but_its_folder(tmp_path: Path) -> None:
    data = tmp_path / "kept"
    process = subprocess.Popen([*DEMO, "--data", str(data)], stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    assert process.stdout is not None
    shown = ""
    while "Ctrl-C ends everything" not in shown and (line := process.stdout.readline()):
        shown += line
    assert len(_processes_of(data)) > 4  # the demo, `serve`, control plane, gateway, worker
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=120)
    assert process.returncode == 0, shown + rest
    log = (data / "serve.log").read_text()
    assert "Traceback" not in log
    assert '"level":"error"' not in log
    assert (data / "data" / "control.db").exists()
    assert _processes_of(data) == []
    again = subprocess.run([*DEMO, "--data", str(data)], capture_output=True, text=True, timeout=120, check=False)
    assert again.returncode == 1
    assert "is not empty" in again.stderr


@pytest.mark.timeout(300)
def test_killed_it_leaves_nothing_running(tmp_path: Path) -> None:
    data = tmp_path / "kept"
    process = subprocess.Popen([*DEMO, "--data", str(data)], stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    assert process.stdout is not None
    for line in process.stdout:
        if "data plane http" in line:
            break
    assert len(_processes_of(data)) > 4
    process.kill()
    process.communicate(timeout=60)
    deadline = time.monotonic() + 60
    while (left := _processes_of(data)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []


def _processes_of(folder: Path) -> list[bytes]:
    """What runs with this folder among its arguments."""
    found = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = each.read_bytes()
        except OSError:  # it has just ended
            continue
        if str(folder).encode() in words:
            found.append(words)
    return found


def test_a_real_provider_needs_its_key(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "entrepot", "demo", "--once", "--upstream", "openai"],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        env={"PATH": ""},
    )
    assert done.returncode == 1
    assert "needs the environment variable `OPENAI_API_KEY`" in done.stderr
