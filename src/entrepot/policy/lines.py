"""Finds the line of a table or value in the text of a TOML file: `tomllib` keeps no positions.

A best effort for messages only: nothing that decides depends on a line.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from itertools import islice
from operator import itemgetter
from typing import NamedTuple

_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?$")


class Block(NamedTuple):
    """The lines of one table, counted from 1, both included."""

    first: int
    last: int


class Lines:
    def __init__(self, text: str) -> None:
        self._lines = text.splitlines()
        self._starts: dict[str, list[int]] = {}
        self._headers: list[tuple[int, str]] = []
        for at, line in enumerate(self._lines, 1):
            if match := _HEADER.match(line):
                name = match[2].replace('"', "").replace("'", "")
                self._starts.setdefault(name, []).append(at)
                self._headers.append((at, name))

    def nth(self, header: str, index: int) -> Block | None:
        """The block of the `index`-th `[[header]]`, sub-tables included."""
        starts = self._starts.get(header, [])
        return self._block(starts[index], header) if index < len(starts) else None

    def named(self, header: str) -> Block | None:
        return self.nth(header, 0)

    def line(self, block: Block | None, *tokens: str) -> int | None:
        """The first line of the block that holds one of the tokens, tried in turn, else the block's first line."""
        if block is None:
            return None
        for token in tokens:
            whole = re.compile(rf"(?<![\w@!-]){re.escape(token)}(?![\w-])")
            for at in range(block.first, block.last + 1):
                if whole.search(self._lines[at - 1]):
                    return at
        return block.first

    def _block(self, first: int, header: str) -> Block:
        after = islice(self._headers, bisect_right(self._headers, first, key=itemgetter(0)), None)
        later = (at for at, name in after if not name.startswith(f"{header}."))
        return Block(first, next(later, len(self._lines) + 1) - 1)
