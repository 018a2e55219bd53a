"""Reads the fields of one TOML table, noting every mistake instead of stopping at the first."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from difflib import get_close_matches
from typing import Any

from entrepot.policy.lines import Block, Lines
from entrepot.policy.model import Place, Problem, Source

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


class Table:
    """One table of a pack file: its raw values, where it stands, and the list that its mistakes go to."""

    def __init__(self, raw: Mapping[str, Any], file: str, lines: Lines, problems: list[Problem]) -> None:
        self.raw = raw
        self.subject: str | None = None
        self._file = file
        self._lines = lines
        self._problems = problems
        self._block: Block | None = None

    def inside(self, raw: Mapping[str, Any], subject: str | None = None, block: Block | None = None) -> Table:
        """The table of a rule, set or case in the same file; without a subject, a part of this one."""
        inner = Table(raw, self._file, self._lines, self._problems)
        inner.subject = subject or self.subject
        inner._block = block or self._block
        return inner

    def place(self) -> Place:
        return Place(self._file, self._lines.line(self._block))

    def problem(self, what: str, fix: str, *tokens: str) -> None:
        """`tokens` are texts to look for, in turn, to find the line."""
        line = self._lines.line(self._block, *tokens)
        self._problems.append(Problem(self._file, what, fix, line, self.subject))

    def only(self, *known: str) -> None:
        for key in self.raw:
            if key not in known:
                self.problem(f"unknown key `{key}`", suggest(key, known), key)

    def text(self, key: str, *, required: bool = False) -> str | None:
        value = self.raw.get(key)
        if value is None:
            if required:
                self.problem(f"`{key}` is missing", f'add `{key} = "…"`')
            return None
        if not isinstance(value, str) or not value.strip():
            self.problem(f"`{key}` is not a text", f'write `{key} = "…"`', key)
            return None
        return value

    def choice(self, key: str, choices: Sequence[str], *, default: str | None = None) -> str | None:
        value = self.text(key, required=default is None)
        if value is None:
            return default
        if value not in choices:
            self.problem(f"`{value}` is no {key}", suggest(value, choices), value, key)
            return default
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        value = self.raw.get(key, default)
        if isinstance(value, bool):
            return value
        self.problem(f"`{key}` is neither true nor false", f"write `{key} = true` or `{key} = false`", key)
        return default

    def instant(self, key: str) -> int | None:
        value = self.raw.get(key)
        if value is None:
            return None
        if not isinstance(value, datetime) or value.tzinfo is None:
            self.problem(
                f"`{key}` is not an instant",
                f"write a date and time with its offset: `{key} = 2024-07-09T00:00:00Z`",
                key,
            )
            return None
        if value.microsecond % 1000:
            self.problem(f"`{key}` is finer than a millisecond", "round it to milliseconds", key)
            return None
        return (value - _EPOCH) // timedelta(milliseconds=1)

    def interval(self) -> tuple[int | None, int | None]:
        start, until = self.instant("from"), self.instant("until")
        if start is not None and until is not None and until <= start:
            self.problem("`until` is not after `from`", "the interval is half-open: give a later `until`", "until")
        return start, until

    def day(self, key: str) -> str | None:
        """A date as ISO text; a date in TOML or in quotes."""
        value = self.raw.get(key)
        if value is None:
            return None
        text = value.isoformat() if isinstance(value, date) and not isinstance(value, datetime) else value
        if isinstance(text, str) and _DATE.fullmatch(text):
            return text
        self.problem(f"`{key}` is not a date", f"write `{key} = 2026-08-05`", key)
        return None

    def texts(self, key: str) -> dict[str, str]:
        """A text per language: `{ en = "…", zh = "…" }`. A plain text is English."""
        value = self.raw.get(key, {})
        if isinstance(value, str):
            return {"en": value}
        if isinstance(value, dict) and all(isinstance(text, str) and text for text in value.values()):
            for tag in value:
                if not _LANGUAGE.fullmatch(tag):
                    self.problem(f"`{tag}` is no language", "write a tag such as `en` or `zh-Hant`", tag)
            return dict(sorted(value.items()))
        self.problem(f"`{key}` is not a text per language", f'write `{key} = {{ en = "…" }}`', key)
        return {}

    def source(self) -> Source | None:
        value = self.raw.get("source")
        if value is None:
            return None
        if not isinstance(value, dict):
            self.problem("`source` is not a table", 'write `source = { title = "…", url = "https://…" }`', "source")
            return None
        inner = self.inside(value)
        inner.only("title", "url", "retrieved")
        title = inner.text("title", required=True)
        return Source(title or "", inner.text("url"), inner.day("retrieved"))


def suggest(word: str, choices: Sequence[str]) -> str:
    """How to mend a misspelt word: the nearest choice, or all of them."""
    near = get_close_matches(word, choices, n=1)
    if not choices:
        return "declare it first"
    if near:
        return f"did you mean `{near[0]}`?"
    return "use one of " + ", ".join(f"`{choice}`" for choice in choices)
