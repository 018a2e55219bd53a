"""Fails when a source file is longer than a reader should have to hold in mind."""

from __future__ import annotations

import sys
from pathlib import Path

LIMIT_LINES = 600
FOLDERS = ("src", "tests", "bench", "tools")


def main() -> int:
    root = Path(__file__).resolve().parent.parent
    files = [path for folder in FOLDERS for path in (root / folder).rglob("*.py") if "node_modules" not in path.parts]
    long = [
        (path, lines)
        for path in sorted(files)
        if ".peers" not in path.parts and (lines := len(path.read_text(encoding="utf-8").splitlines())) > LIMIT_LINES
    ]
    for path, lines in long:
        print(f"{path.relative_to(root)}: {lines} lines, more than {LIMIT_LINES}: split it")
    return 1 if long else 0


if __name__ == "__main__":
    sys.exit(main())
