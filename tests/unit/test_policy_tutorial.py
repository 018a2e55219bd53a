"""The tutorial is run as it stands: its files are written, its commands run, and their output is what it shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from entrepot.cli.policy import app

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = (ROOT / "docs/policy-tutorial.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"```(toml|console)\n(.*?)```", re.DOTALL)


def test_the_transcript_is_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("entrepot.cli.policy._now_ms", lambda: 1_796_083_200_000)  # 1 December 2026, before any review
    pack = tmp_path / "world/campus.toml"
    pack.parent.mkdir()
    (tmp_path / "new").mkdir()
    pack.write_text("")
    runs = 0
    for kind, text in BLOCK.findall(PAGE):
        if kind == "toml":
            pack.write_text(pack.read_text() + text)
            continue
        runs += 1
        if runs == 3:  # "With `operation = "batch"` among its facts"
            mended = pack.read_text().replace(
                'target.provider = "acme", target.territory',
                'target.provider = "acme", operation = "batch", target.territory',
            )
            pack.write_text(mended)
        (tmp_path / "new/campus.toml").write_text(pack.read_text().replace('"CH", "DE", {', '"AT", "CH", "DE", {'))
        command, _, shown = text.partition("\n")
        done = CliRunner().invoke(app, command.removeprefix("$ entrepot policy ").split())
        assert shown.strip() in done.stdout
        assert done.stderr == ""
    assert runs == 5
