"""Turns what reading found into problems: paths become lines and readable keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from entrepot.resources.lines import Lines, Path
from entrepot.resources.problems import Problem
from entrepot.resources.reading import Finding


class Places:
    """Turns paths into lines and readable keys; a file is indexed when its first problem is told."""

    def __init__(self, texts: Mapping[str, str], documents: Mapping[str, dict[str, Any]]) -> None:
        self._texts = texts
        self._documents = documents
        self._lines: dict[str, Lines] = {}

    def place(self, file: str, path: Path) -> str:
        line = self._line(file, path)
        return file if line is None else f"{file}:{line}"

    def problems(self, findings: Iterable[Finding]) -> tuple[Problem, ...]:
        found = [
            Problem(
                f.file,
                f.line or self._line(f.file, f.path),
                self._key(f),
                f.what,
                f.fix,
                "warning" if f.warning else "error",
            )
            for f in findings
        ]
        return tuple(sorted(found, key=lambda p: (p.file, p.line or 0)))

    def _line(self, file: str, path: Path) -> int | None:
        if file not in self._texts:
            return None
        if file not in self._lines:
            self._lines[file] = Lines(self._texts[file])
        return self._lines[file].find(path)

    def _key(self, finding: Finding) -> str:
        """`account[robotics-ai].deployment[0].sku`: an element with a name goes by it."""
        text = ""
        value: Any = self._documents.get(finding.file, {})
        for part in finding.path:
            if isinstance(part, int):
                value = value[part] if isinstance(value, list) else None
                name = (value.get("name") or value.get("id")) if isinstance(value, dict) else None
                text += f"[{name if isinstance(name, str) else part}]"
            else:
                value = value.get(part) if isinstance(value, dict) else None
                text += f".{part}" if text else part
        return text
