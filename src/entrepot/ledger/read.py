"""Reads the entries of a ledger's folder, in any process, while it is written or not. Proves nothing: `verify` does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from entrepot.ledger.entries import Personal, disclose
from entrepot.ledger.frames import private_file, records
from entrepot.ledger.verify import (
    CHECKPOINT,
    LIST,
    SEGMENT,
    Unproved,
    folder_name,
    read_checkpoint,
    read_header,
    segment_name,
    walk,
)


class Read(NamedTuple):
    origin: str
    number: int
    entry: bytes


def is_ledger(folder: Path) -> bool:
    """Whether there is anything of one, or of one log."""
    return any(any(folder.glob(one)) for one in (LIST, CHECKPOINT, SEGMENT, f"*/{SEGMENT}"))


def folders_of(ledger: Path) -> list[Path]:
    """The logs of a folder in the order of the list, those that it does not name last; or the one log that it is."""
    if any(ledger.glob(SEGMENT)):
        return [ledger]
    order = _listed(ledger)
    there = sorted(path for path in ledger.glob("[!.]*") if path.is_dir())
    return sorted(there, key=lambda path: order.get(path.name, len(order)))


def all_folders_of(ledger: Path) -> Iterator[Path]:
    """The same, for who is to miss none. Raises Unproved, after the last, where one that the list names is not there.

    That the list names all that there were is for `verify` to prove.
    """
    listed = {} if any(ledger.glob(SEGMENT)) else _listed(ledger)  # first: what it names is there by then
    folders = folders_of(ledger)
    yield from folders
    if missing := sorted(listed.keys() - {path.name for path in folders}):
        raise Unproved(f"the log `{missing[0].replace('_', '/')}` is in the list of logs, but it is missing")


def segments_of(log: Path) -> list[tuple[int, Path]]:
    """First entry and file of each, in their order. Raises Unproved where a file has the name of none."""
    found = []
    for path in sorted(log.glob(SEGMENT)):
        if not (path.stem.isascii() and path.stem.isdecimal()):
            raise Unproved(f"`{path}` does not belong there")
        found.append((int(path.stem), path))
    return found


def _listed(ledger: Path) -> dict[str, int]:
    """The folders that the list names, in its order; nothing of it is proved."""
    try:
        lines = (ledger / LIST).read_text(encoding="utf-8", errors="replace").partition("\n\n")[0].split("\n")
    except FileNotFoundError:
        return {}
    return {folder_name(line.split(" ")[0]): at for at, line in enumerate(lines[1:]) if line}


def entries_of(log: Path, start: int = 0) -> Iterator[Read]:
    """Entries of one log from index `start` on. What no checkpoint covers yet may be missing at the end, torn or not.

    Raises Unproved where an entry that a checkpoint covers, or that others stand behind, cannot be read: after those
    before it. Raises OSError.
    """
    # The checkpoint is read first: what it covers is in the files by then.
    origin, signed = covered(log)
    segments = segments_of(log)
    size = 0
    for at, (_, path) in enumerate(segments):
        if at + 1 < len(segments) and segments[at + 1][0] <= start:
            size = segments[at + 1][0]
            continue
        data = path.read_bytes()
        try:
            origin, first, offset = read_header(data)
        except (Unproved, ValueError):
            raise Unproved(f"the header of `{path}` is damaged") from None
        if first != size or path.name != segment_name(first):
            raise Unproved(f"entry {size} of the log `{origin}` is damaged or missing: `{path.name}` follows")
        spans, _ = walk(data, offset)
        size = first + len(spans)
        for index, (begin, end) in enumerate(spans, first):
            if index >= start:
                yield Read(origin, index, data[begin:end])
    if size < signed:
        raise Unproved(f"entry {size} of the log `{origin}` is damaged or missing: its checkpoint covers {signed}")


def covered(log: Path) -> tuple[str, int]:
    """Origin and size of the last checkpoint; its signature is for `verify` to check. Without one, nothing is."""
    try:
        text = (log / CHECKPOINT).read_text(encoding="utf-8").partition("\n\n")[0] + "\n"
    except FileNotFoundError:
        return log.name, 0
    except UnicodeDecodeError:
        raise Unproved(f"the checkpoint of `{log.name}` is damaged") from None
    signed = read_checkpoint(text)
    return signed.origin, signed.size


def personal_of(log: Path) -> dict[int, Personal]:
    """The personal data of a log that was not erased, by index."""
    found: dict[int, Personal] = {}
    for first, _ in segments_of(log):
        path = private_file(log, first)
        for record in records(path.read_bytes()) if path.exists() else ():
            if record.private is not None:
                found[record.number] = disclose(record.private)
    return found
