"""The first call as README.md has it, word for word but for the upstream's address."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from outside import Outside

from entrepot.sim.server import simulated
from entrepot.sim.settings import Rule, Settings
from people import served

ROOT = Path(__file__).resolve().parents[2]
TEXT = "A receipt is a promise that can be checked."


@pytest.mark.timeout(400)
def test_the_first_call(tmp_path: Path) -> None:
    shell, python = blocks()
    script = tmp_path / "call.py"
    script.write_text(python)
    with simulated(Settings(script=(Rule(text=TEXT),))) as sim, served(tmp_path / "data") as house:
        environ = {
            **Outside().environ(),
            "ENTREPOT_DATA": str(house.folder),
            "AZURE_CONFIG_DIR": str(tmp_path / "azure"),
            "AZURE_CORE_COLLECT_TELEMETRY": "false",
        }
        environ["PATH"] = f"{Path(sys.executable).parent}:{ROOT / '.venv-az/bin'}:{environ['PATH']}"
        typed = shell.replace("http://127.0.0.1:8000", sim.base_url).replace(". .venv/bin/activate\n", "set -e\n")
        assert typed.count("\naz ") + typed.count("$(az ") == 5
        command = ["sh", "-c", f"{typed}\n{sys.executable} {script}"]
        done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=380, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert TEXT in done.stdout


def blocks() -> tuple[str, str]:
    """What is typed after `entrepot serve`, and the program."""
    part = (ROOT / "README.md").read_text().split("## First call")[1].split("\n## ")[0]
    shells = re.findall(r"```sh\n(.*?)```", part, re.DOTALL)
    (python,) = re.findall(r"```python\n(.*?)```", part, re.DOTALL)
    return shells[1], python
