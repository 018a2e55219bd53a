"""The demo as its user runs it: a real engine, a real gateway, every step ending as it should."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path


def test_the_walk(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "entrepot", "demo", "--once", "--port", "0"],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    shown = done.stdout
    assert shown.count("An entrepot is a port where goods are brought in") == 4
    assert shown.count("processed  Japan East") == 4
    assert shown.count("nothing was sent upstream") == 2
    assert '"code":"unsupported_country_region_territory"' in shown
    assert "permit by BASE-01 at 2024-07-08T23:59:59Z" in shown
    assert re.search(r"proved: entry \d+ is in the log", shown)
    assert not any(tmp_path.iterdir())


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
