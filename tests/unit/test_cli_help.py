"""Every command's help shows what its author wrote: nothing of it is taken for markup."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from entrepot.cli import COMMANDS, command_line


def _below(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, each in getattr(command, "commands", {}).items():
        yield from _below(each, (*path, name))


def _plain(text: str) -> str:
    """Letters, digits and signs only: lines are broken anywhere, and frames drawn around them."""
    return re.sub(r"[\s│╭╮╰╯─]+", "", text)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_is_shown_as_it_was_written(name: str) -> None:
    app = command_line([name])
    root: Any = typer.main.get_command(app)
    looked = 0
    for path, command in _below(root.commands[name], (name,)):
        shown = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "400"}).output
        assert not re.search(r"(?<!`)``(?!`)", shown), shown
        texts = [command.help or "", *(getattr(each, "help", None) or "" for each in command.params)]
        for text in texts:
            written = inspect.cleandoc(text).replace("\\[", "[")
            assert _plain(written) in _plain(shown), (path, written)
            looked += 1
    assert looked
