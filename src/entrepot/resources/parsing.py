"""TOML text → document, going on past syntax errors so that a file's other mistakes are told as well."""

from __future__ import annotations

import re
from typing import Any

import tomli

from entrepot.resources.reading import Sheet

_POSITION = re.compile(r"\s*\(at (?:line (\d+), column (\d+)|end of document)\)$")
_KEY = re.compile(r"[ \t]*([A-Za-z0-9_-]+)[ \t]*=")
_MAX_SYNTAX_ERRORS = 20
_MAX_RETRY_BYTES = 1_000_000


def decode(data: bytes, sheet: Sheet) -> str | None:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        sheet.unreadable(data.count(b"\n", 0, exc.start) + 1, "the file is not UTF-8", "save it in UTF-8")
        return None


def parse(text: str, sheet: Sheet) -> dict[str, Any] | None:
    """The document. Past a syntax error its line is left out and the rest is read; None when that leads nowhere."""
    for _ in range(_MAX_SYNTAX_ERRORS if len(text) <= _MAX_RETRY_BYTES else 1):
        try:
            return tomli.loads(text)
        except tomli.TOMLDecodeError as exc:
            message = str(exc)
            position = _POSITION.search(message)
            rows = text.split("\n")
            line = int(position[1]) if position and position[1] else len(rows)
            what = _POSITION.sub("", message)
            key = _KEY.match(rows[line - 1])
            stuck = not position or not position[1] or not rows[line - 1].strip()
            lost = key[1] if key and not stuck else "*"
            sheet.unreadable(line, f"not TOML: {what[:1].lower()}{what[1:]}", _fix(message), lost)
            if stuck:
                return None
            rows[line - 1] = ""
            text = "\n".join(rows)
        except (ValueError, RecursionError):
            sheet.unreadable(1, "a number is too long or a value nested too deep", "shorten it")
            return None
    return None


def _fix(message: str) -> str:
    if message.startswith("Invalid value"):
        return 'put text in quotes: `"…"`'
    if "overwrite" in message or "Cannot declare" in message or "Cannot mutate" in message:
        return "take one of the two out; a table that repeats is written `[[…]]`"
    if "at end of document" in message or "Unterminated" in message or "Unclosed" in message:
        return "close the string, array or table that is left open"
    if message.startswith("Expected '=' after a key"):
        return "write `key = value`; a key with other than letters, digits, `_` and `-` goes in quotes"
    return "correct the line, or compare it with the TOML specification"
