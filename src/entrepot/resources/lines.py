"""Where a key of a TOML document stands: a path (`("account", 2, "deployment", 0, "sku")`) → its line.

A scanner beside the parser, because `tomllib` tells no positions. It expects a document that parses; it never fails.
"""

from __future__ import annotations

import re

Path = tuple[str | int, ...]

_PART = r"""(?:"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[A-Za-z0-9_-]+)"""
_DOTTED = rf"{_PART}(?:[ \t]*\.[ \t]*{_PART})*"
_HEADER = re.compile(rf"[ \t]*(\[\[?)[ \t]*({_DOTTED})[ \t]*\]")
_KEY = re.compile(rf"[ \t]*({_DOTTED})[ \t]*=[ \t]*")
_PARTS = re.compile(_PART)
# What matters inside a value: whole strings and comments are skipped, brackets, commas and line ends counted.
_TOKEN = re.compile(
    r"""\"{3}(?:[^\\]|\\.)*?\"{3,5}|'{3}.*?'{3,5}|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|\#[^\n]*|[\[\]{},\n]|[^\s\[\]{},"'\#]+""",
    re.DOTALL,
)


class Lines:
    """The index of one document."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._line: dict[Path, int] = {}
        self._counts: dict[Path, int] = {}
        self._scan()

    def find(self, path: Path) -> int | None:
        """The line of `path`, else of the nearest key or table around it."""
        for end in range(len(path), 0, -1):
            line = self._line.get(path[:end])
            if line is not None:
                return line
        return None

    def _scan(self) -> None:
        table: Path = ()
        at, line, size = 0, 1, len(self._text)
        while at < size:
            if header := _HEADER.match(self._text, at):
                table = self._enter(_split(header[2]), header[1] == "[[")
                for end in range(1, len(table) + 1):
                    self._line.setdefault(table[:end], line)
                at = header.end()
            elif key := _KEY.match(self._text, at):
                path = table
                for part in _split(key[1]):
                    path = (*path, part)
                    self._line.setdefault(path, line)
                at, line = self._value(key.end(), line, path)
            end = self._text.find("\n", at)
            at, line = (end + 1 if end >= 0 else size), line + 1

    def _enter(self, parts: list[str], array: bool) -> Path:
        path: Path = ()
        for i, part in enumerate(parts):
            path = (*path, part)
            if array and i == len(parts) - 1:
                self._counts[path] = self._counts.get(path, 0) + 1
            if path in self._counts:
                path = (*path, self._counts[path] - 1)
        return path

    def _value(self, at: int, line: int, path: Path) -> tuple[int, int]:
        """The end of a value and its line; elements of an array and keys of an inline table inside it are indexed."""
        open_: list[tuple[Path, int]] = []  # (path of a table, -1) or (path of an array, index of the next element)
        start = True  # the next token begins an element
        while token := _TOKEN.search(self._text, at):
            text = token[0]
            if text == "\n" and not open_:
                return token.start(), line
            if start and open_ and text not in "],}\n" and text[0] != "#":
                start = False
                inside, index = open_[-1]
                if index >= 0:
                    self._line.setdefault((*inside, index), line)
                elif key := _KEY.match(self._text, token.start()):
                    path = inside
                    for part in _split(key[1]):
                        path = (*path, part)
                        self._line.setdefault(path, line)
                    at = key.end()
                    continue
            at = token.end()
            if text in ("[", "{"):
                if open_ and open_[-1][1] >= 0:
                    path = (*open_[-1][0], open_[-1][1])
                open_.append((path, 0 if text == "[" else -1))
                start = True
            elif text in ("]", "}") and open_:
                open_.pop()
                start = False
            elif text == "," and open_:
                inside, index = open_[-1]
                open_[-1] = (inside, index + 1 if index >= 0 else -1)
                start = True
            line += text.count("\n")
        return len(self._text), line


def _split(dotted: str) -> list[str]:
    return [part[1:-1] if part[0] in "\"'" else part for part in _PARTS.findall(dotted)]
