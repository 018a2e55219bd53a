"""What stands in deploy/ fits what is served: metrics of alerts exist, units name options that there are."""

from __future__ import annotations

import re
import shutil
import subprocess
from configparser import RawConfigParser
from pathlib import Path

import pytest
from test_docs import DOCS, ROOT, options_of

from entrepot.errors import Code
from entrepot.gateway.metrics import CATALOGUE as GATEWAY
from entrepot.management.metrics import CATALOGUE as CONTROL
from entrepot.telemetry.metrics import Description

DEPLOY = ROOT / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))
KNOWN = GATEWAY | CONTROL
NOTHING = Description("gauge", "")


def test_alerts_name_metrics_and_labels_that_exist() -> None:
    text = (DEPLOY / "alerts.yml").read_text(encoding="utf-8")
    expressions = re.findall(r"expr: (.*)", text)
    assert len(expressions) == text.count("- alert:") == len(set(re.findall(r"- alert: (\w+)", text)))
    for expression in expressions:
        names = re.findall(r"entrepot_\w+", expression)
        assert names
        for name in names:
            found = KNOWN.get(name) or KNOWN[re.sub(r"_(bucket|sum|count)$", "", name)]
            assert (found.kind == "histogram") is (name not in KNOWN)
        known = {label for name in names for label in KNOWN.get(name, KNOWN.get(name[:-7], NOTHING)).labels}
        assert set(re.findall(r"\{(\w+)[=~]", expression)) <= known
        codes = {code.label for code in Code}
        for pattern in re.findall(r'code=~?"([^"]+)"', expression):
            assert any(re.fullmatch(pattern, code) for code in codes)


def test_each_alert_is_explained() -> None:
    page = (DOCS / "operations.md").read_text(encoding="utf-8")
    alerts = re.findall(r"- alert: (\w+)", (DEPLOY / "alerts.yml").read_text(encoding="utf-8"))
    assert [alert for alert in alerts if f"`{alert}`" not in page] == []


@pytest.mark.parametrize("metric", CONTROL)
def test_metrics_of_the_control_plane_are_documented(metric: str) -> None:
    text = (DOCS / "metrics.md").read_text(encoding="utf-8")
    row = next(line for line in text.splitlines() if line.startswith(f"| `{metric}`"))
    assert all(label in row for label in CONTROL[metric].labels)


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_units_start_what_there_is_and_let_it_write_its_folder_only(path: Path, tmp_path: Path) -> None:
    unit = RawConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(path.read_text(encoding="utf-8"))
    service = unit["Service"]
    program, command, *words = service["ExecStart"].split()
    assert program == "/opt/entrepot/bin/entrepot"
    known = {option for _, option in options_of(command)}
    assert {word for word in words if word.startswith("--")} <= known
    data = words[words.index("--data") + 1]
    assert data == f"/var/lib/{service['StateDirectory']}"
    assert (service["ProtectSystem"], service["UMask"], service["DynamicUser"]) == ("strict", "0077", "yes")
    assert (service["Restart"], unit["Unit"].get("StartLimitIntervalSec")) == ("always", "0")  # else not for long
    verify = shutil.which("systemd-analyze")
    if verify is not None:  # nothing else of systemd is needed
        copy = tmp_path / path.name
        copy.write_text(path.read_text(encoding="utf-8").replace(program, "/bin/true"), encoding="utf-8")
        done = subprocess.run([verify, "verify", str(copy)], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
