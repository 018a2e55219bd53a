"""`entrepot world check`: what it prints, and with what it exits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner
from world_texts import HASH, WORLD, line_of

from entrepot.cli.world import app

PACK = """\
[pack]
id = "own"

[[rule]]
id = "OWN-01"
effect = "allow"
"""


@pytest.fixture
def world(tmp_path: Path) -> Path:
    (tmp_path / "world.toml").write_text(WORLD, encoding="utf-8")
    return tmp_path


def run(*arguments: str) -> tuple[int, str]:
    group = typer.Typer()
    group.add_typer(app, name="world")
    result = CliRunner().invoke(group, ["world", *arguments])
    return result.exit_code, result.output


def test_a_valid_world(world: Path) -> None:
    assert run("check", str(world)) == (
        0,
        "valid: 1 organization, 1 account, 1 deployment, 1 upstream, 1 policy pack\n",
    )


def test_warnings_are_marked_and_pass(world: Path) -> None:
    (world / "world.toml").write_text(WORLD.replace(HASH, "plain"), encoding="utf-8")
    code, output = run("check", str(world))
    assert code == 0
    assert output.startswith(
        f"world.toml:{line_of(WORLD, 'keys =')}: warning: `account[robotics-ai].keys.key1`: a secret stands here"
    )
    assert output.endswith("; 1 warning\n")


def test_mistakes_of_the_world_and_of_its_packs_are_told_together(world: Path) -> None:
    text = WORLD.replace("share = 60.0", "share = 600").replace("entrepot:base", "own.toml")
    (world / "world.toml").write_text(text, encoding="utf-8")
    (world / "own.toml").write_text(PACK, encoding="utf-8")
    code, output = run("check", str(world))
    assert code == 1
    place = f"world.toml:{line_of(WORLD, 'share = 60')}: `organization[yangtze-robotics].owners[Delta].share`"
    assert f"{place}: `600` is no share — write per cent" in output
    assert "\nown.toml:6: `rule OWN-01`: " in output
    assert output.splitlines()[-1].startswith("invalid: ")


def test_json(world: Path) -> None:
    (world / "world.toml").write_text(WORLD.replace("share = 60.0", "share = 600"), encoding="utf-8")
    code, output = run("check", "--json", str(world))
    answer = json.loads(output)
    assert (code, answer["valid"]) == (1, False)
    assert set(answer["problems"][0]) == {"file", "line", "key", "what", "fix", "level"}


def test_wrong_usage(tmp_path: Path) -> None:
    assert run("check", str(tmp_path / "nothing"))[0] == 2
    assert run("check")[0] == 2
