"""How entries and personal data stand in their files (docs/ledger.md, "Segments" and "Personal data")."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from struct import Struct
from typing import NamedTuple
from zlib import crc32

from entrepot.ledger.verify import BATCH, ENTRY, FRAME, HEADER, PRIVATE, is_blank

# A record of personal data: length of salt and value, checksum begun with its offset, index of its entry.
RECORD = Struct(">IIQ")


def frame(magic: bytes, data: bytes, offset: int) -> bytes:
    """`data` as it stands at `offset` of its file.

    The checksum begins with the offset, so a frame that was moved is no frame. The last byte of the head is zero:
    with it the hash of an entry's leaf is the hash of bytes as they stand in the file.
    """
    return FRAME.pack(magic, len(data), crc32(data, offset), 0) + data


def header(origin: str, first: int) -> bytes:
    return frame(HEADER, f"{origin}/{first}".encode(), 0)


def header_end(data: bytes) -> int:
    return FRAME.size + int(FRAME.unpack_from(data, 0)[1])


def private_file(folder: Path, first: int) -> Path:
    return folder / PRIVATE / f"{first:08d}.private"


def framed(entries: Sequence[bytes], offset: int) -> tuple[bytes, list[int]]:
    """A batch as it stands at `offset` of a segment, and where in the segment each frame begins."""
    parts: list[bytes] = []
    offsets: list[int] = []
    magic, pack, head = BATCH, FRAME.pack, FRAME.size
    for entry in entries:
        parts.append(pack(magic, len(entry), crc32(entry, offset), 0))
        parts.append(entry)
        offsets.append(offset)
        offset += head + len(entry)
        magic = ENTRY
    return b"".join(parts), offsets


def recorded(index: int, privates: Sequence[bytes | None], offset: int) -> bytes:
    """The batch's personal data as it stands at `offset` of a side file."""
    parts: list[bytes] = []
    for at, private in enumerate(privates, index):
        if private is not None:
            parts.append(RECORD.pack(len(private), crc32(private, offset), at))
            parts.append(private)
            offset += RECORD.size + len(private)
    return b"".join(parts)


class Record(NamedTuple):
    """Salt and value of the personal data of entry `number`; None once they are erased. Offsets are the record's."""

    number: int
    start: int
    stop: int
    private: bytes | None


def erased(record: Record) -> bytes:
    """The record as it stands once salt and value are zeros."""
    blank = bytes(record.stop - record.start - RECORD.size)
    return RECORD.pack(len(blank), crc32(blank, record.start), record.number) + blank


def is_erased(data: bytes, record: Record) -> bool:
    """Told from one that is torn, or half erased."""
    return data[record.start : record.stop] == erased(record)


def records(data: bytes) -> Iterator[Record]:
    """Every record of a side file, up to the first bytes that are none.

    One with a wrong checksum counts as erased when something whole stands behind it: erasing writes zeros in place, and
    a crash can come between the value and the checksum.
    """
    start = 0
    while (found := _record(data, start)) is not None:
        if found.private is None and _record(data, found.stop) is None and not is_blank(data, found.stop):
            return
        yield found
        start = found.stop


def _record(data: bytes, start: int) -> Record | None:
    if start + RECORD.size >= len(data):
        return None
    length, checksum, index = RECORD.unpack_from(data, start)
    stop = start + RECORD.size + length
    if length == 0 or stop > len(data):
        return None
    private = data[start + RECORD.size : stop]
    whole = crc32(private, start) == checksum and not is_blank(private, 0)
    return Record(index, start, stop, private if whole else None)


@contextmanager
def settled(folder: Path) -> Iterator[None]:
    """While it lasts, nobody else replaces or erases in the side files of the folder."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
