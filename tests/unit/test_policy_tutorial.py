"""The tutorial is run as it stands: its files are written, its commands run, and their output is what it shows."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner
from world_texts import WORLD

from entrepot.cli.policy import app as policy
from entrepot.cli.world import app as world

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = (ROOT / "docs/policy-tutorial.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"```(toml|console)\n(.*?)```", re.DOTALL)
FILE = re.compile(r"# (?:added to )?(\S+)\n")
COMMAND = re.compile(r"^\$ (.*)\n([^$]*)", re.MULTILINE)


def run(command: str) -> str:
    """What the command prints. `cp` and `entrepot` are all that the tutorial needs."""
    program, *arguments = command.split()
    if program == "cp":
        shutil.copy(*arguments)
        return ""
    group = typer.Typer()
    group.add_typer(policy, name="policy")
    group.add_typer(world, name="world")
    done = CliRunner().invoke(group, arguments)
    assert done.stderr == ""
    return done.stdout


def add(text: str) -> None:
    named = FILE.match(text)
    assert named is not None
    path = Path(named[1])
    path.write_text((path.read_text() if path.exists() else "") + text)


def test_the_transcript_is_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # 1 December 2026, before any review.
    monkeypatch.setattr("entrepot.cli.policy.wall_clock_ms", lambda: 1_796_083_200_000)
    for folder in ("drafts", "world", "new"):
        (tmp_path / folder).mkdir()
    (tmp_path / "world/world.toml").write_text(WORLD.partition("[policy]")[0])
    draft, runs = tmp_path / "drafts/campus.toml", 0
    for kind, text in BLOCK.findall(PAGE):
        if kind == "toml":
            add(text)
            continue
        runs += 1
        if runs == 3:  # "With `operation = "batch"` among its facts"
            mended = draft.read_text().replace(
                'target.provider = "acme", target.territory',
                'target.provider = "acme", operation = "batch", target.territory',
            )
            draft.write_text(mended)
        (tmp_path / "new/campus.toml").write_text(draft.read_text().replace('"CH", "DE", {', '"AT", "CH", "DE", {'))
        for command, shown in COMMAND.findall(text):
            assert shown.strip() in run(command)
    assert runs == 6
