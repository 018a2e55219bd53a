"""Reads parsed TOML into structs, table-driven, and goes on after a mistake so that all of them are told at once.

A `Reader` turns one value into what the struct holds, or raises Mistake (one mistake, about this value) or Reported
(the mistakes inside the value are on the sheet already). Knows nothing of which tables exist.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

import msgspec

from entrepot.resources.lines import Path


class Mistake(Exception):  # noqa: N818 - the user's, not ours
    """The value at hand is wrong: what is wrong, and how to mend it. Neither text may hold a secret."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix


class Reported(Exception):  # noqa: N818 - control flow, never an edge's business
    """The mistakes of this value are on the sheet. `rest` is what of it was right, for checks between tables."""

    def __init__(self, rest: Any = None) -> None:
        super().__init__()
        self.rest = rest


class Finding(NamedTuple):
    """A problem whose line is not looked up yet, unless it is known from the start."""

    file: str
    path: Path
    what: str
    fix: str
    warning: bool = False
    line: int | None = None


class Reference(NamedTuple):
    """A name that must be declared by a table of `kind`."""

    kind: str
    name: str
    file: str
    path: Path


class Row(NamedTuple):
    """One table as read: `values` by field of the struct, without those that were wrong; `struct` if nothing was."""

    file: str
    path: Path
    values: dict[str, Any]
    struct: Any


class Sheet:
    """Collects what reading finds: problems, references to check, and every table read, by kind."""

    def __init__(self) -> None:
        self.file = ""
        self.lost: set[str] = set()  # keys on lines that do not parse; `*` when more than single keys is lost
        self.findings: list[Finding] = []
        self.errors = 0
        self.references: list[Reference] = []
        self.rows: dict[str, list[Row]] = {}
        self._fixes: dict[tuple[str, str], str] = {}

    def mistake(self, path: Path, what: str, fix: str, file: str | None = None) -> None:
        self.errors += 1
        self.findings.append(Finding(file or self.file, path, what, fix))

    def suggest(self, word: str, known: Iterable[str], what: str) -> str:
        """As `suggest`, remembered: the same mistake may stand in ten thousand tables. `what` tells the lists apart."""
        if (word, what) not in self._fixes:
            names, told = list(known), len(self._fixes)
            most = _MAX_COMPARED if told < _MAX_SUGGESTED else 0
            self._fixes[word, what] = suggest(word, names, what, len(names) if told < _FIRST else most)
        return self._fixes[word, what]

    def unreadable(self, line: int, what: str, fix: str, lost: str = "*") -> None:
        """A line that does not parse, which may have held the key `lost`."""
        self.errors += 1
        self.lost.add(lost)
        self.findings.append(Finding(self.file, (), what, fix, line=line))

    def warn(self, path: Path, what: str, fix: str, file: str | None = None) -> None:
        self.findings.append(Finding(file or self.file, path, what, fix, warning=True))


# difflib takes some 40 µs a name: the first mistakes are compared with all names, a hundred with lists of usual length.
_FIRST = 5
_MAX_SUGGESTED = 100
_MAX_COMPARED = 500

# (value, path of the table or array around it, key or index in it, sheet) → value of the struct's field
Reader: TypeAlias = Callable[[Any, Path, "str | int", Sheet], Any]
Check: TypeAlias = Callable[[dict[str, Any], Path, Sheet], None]


class Key(NamedTuple):
    """How one key of a table is read; `field` is given where the struct spells it in another way."""

    read: Reader
    field: str | None = None


class Shape:
    """A table: its struct, its keys, and a check across its values, which may be incomplete after mistakes."""

    def __init__(self, kind: str, struct: type[msgspec.Struct], keys: Mapping[str, Key], check: Check | None = None):
        self.kind = kind
        self.struct = struct
        self.keys = dict(keys)
        self.check = check
        self.readers = {name: (key.read, key.field or name) for name, key in keys.items()}
        needed = {f.name for f in msgspec.structs.fields(struct) if f.required}
        self.required = frozenset(name for name, (_, field) in self.readers.items() if field in needed)


def read_table(value: object, path: Path, shape: Shape, sheet: Sheet) -> Any:
    """The struct of a table. Every table read becomes a row, also one with mistakes, which raises Reported."""
    if type(value) is not dict:
        raise Mistake(f"expected a table, found {describe(value)}", "write `{ … }` or a `[table]` of its own")
    before = sheet.errors
    values: dict[str, Any] = {}
    readers = shape.readers
    for key, item in value.items():
        known = readers.get(key)
        if known is None:
            sheet.mistake((*path, key), f"unknown key `{key}`", sheet.suggest(key, readers, f"keys of `{shape.kind}`"))
            continue
        try:
            values[known[1]] = known[0](item, path, key, sheet)
        except Mistake as mistake:
            sheet.mistake((*path, key), mistake.what, mistake.fix)
        except Reported as reported:
            if reported.rest is not None:
                values[known[1]] = reported.rest
    complete = value.keys() >= shape.required
    if not complete:
        _tell_missing(value, path, shape, sheet)
    if shape.check is not None:
        shape.check(values, path, sheet)
    struct = shape.struct(**values) if complete and sheet.errors == before else None
    sheet.rows.setdefault(shape.kind, []).append(Row(sheet.file, path, values, struct))
    if struct is None:
        raise Reported
    return struct


def _tell_missing(value: Mapping[str, object], path: Path, shape: Shape, sheet: Sheet) -> None:
    for key in shape.readers:
        if key in shape.required and key not in value and key not in sheet.lost and "*" not in sheet.lost:
            sheet.mistake(path, f"missing key `{key}`", f"add `{key} = …`")


def table(shape: Shape) -> Reader:
    def read(value: object, path: Path, key: str | int, sheet: Sheet) -> Any:
        return read_table(value, (*path, key), shape, sheet)

    return read


def array(item: Reader, what: str) -> Reader:
    """An array whose elements `item` reads, as a tuple; `what` names the elements."""

    def read(value: object, path: Path, key: str | int, sheet: Sheet) -> tuple[Any, ...]:
        if type(value) is not list:
            raise Mistake(f"expected an array of {what}, found {describe(value)}", f"write `{key} = [ … ]`")
        before = sheet.errors
        inside = (*path, key)
        out = []
        for i, element in enumerate(value):
            try:
                out.append(item(element, inside, i, sheet))
            except Mistake as mistake:
                sheet.mistake((*inside, i), mistake.what, mistake.fix)
            except Reported:
                continue
        if sheet.errors != before or len(out) != len(value):
            raise Reported(tuple(out))
        return tuple(out)

    return read


def describe(value: object) -> str:
    """What a TOML value is, in words. Never the value: it may be a secret."""
    return _WORDS.get(type(value).__name__, f"a {type(value).__name__}")


_WORDS = {
    "str": "a string",
    "int": "an integer",
    "float": "a float",
    "bool": "a boolean",
    "datetime": "a date-time",
    "date": "a date",
    "time": "a time",
    "list": "an array",
    "dict": "a table",
}


def suggest(word: str, known: Iterable[str], what: str, most: int = 500) -> str:
    """How to mend a wrong word: the closest known one, if no more than `most` are known, else a list of them."""
    names = list(known)
    if len(names) > most:
        return list_names(names, what)
    if close := difflib.get_close_matches(word, names, n=1, cutoff=0.6):
        return f"did you mean `{close[0]}`?"
    return list_names(names, what)


def list_names(names: Collection[str], what: str) -> str:
    """`what: a, b, c`, at most 12 of them."""
    if not names:
        return f"{what}: none"
    shown = ", ".join(f"`{name}`" for name in islice(names, 12))
    return f"{what}: {shown}" + (f" and {len(names) - 12} more" if len(names) > 12 else "")
