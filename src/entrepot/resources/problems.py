"""Mistakes in a world, told all at once: what each is, where it stands, and how to mend it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from entrepot.resources.model import PackSource


class Problem(msgspec.Struct, frozen=True):
    """One mistake. `line` counts from 1 and is None where none is known; `key` is the path inside the file.

    No text of a problem holds a secret.
    """

    file: str
    line: int | None
    key: str
    what: str
    fix: str
    level: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        mark = "warning: " if self.level == "warning" else ""
        key = f"`{self.key}`: " if self.key else ""
        return f"{place}: {mark}{key}{self.what} — {self.fix}"


class WorldInvalid(Exception):  # noqa: N818 - named for what it says
    """A world that cannot be served. `problems` holds every error and warning, in the order of files and lines.

    `packs` are those that the world names and that were found: they may have mistakes of their own.
    """

    def __init__(self, problems: Sequence[Problem], packs: Sequence[PackSource] = ()) -> None:
        self.problems = tuple(problems)
        self.packs = tuple(packs)
        errors = [p for p in self.problems if p.level == "error"]
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        super().__init__(f"{errors[0]}{more}" if errors else "the world is invalid")
