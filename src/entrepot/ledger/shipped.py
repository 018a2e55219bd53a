"""A copy of a log that grows as its gateway ships it. Nothing counts in it before a checkpoint proves it.

Synchronous, for one thread at a time.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple, Self
from zlib import crc32

from entrepot.ledger.files import Files
from entrepot.ledger.verify import (
    CHECKPOINT,
    FRAME,
    LIST,
    SEGMENT,
    Checkpoint,
    Key,
    Span,
    Tree,
    Unproved,
    folder_name,
    leaf_hash,
    open_checkpoint,
    read_checkpoint,
    read_header,
    read_list,
    segment_name,
    walk,
)


class Forked(Exception):  # noqa: N818 - named for what it says
    """What is shipped is another history than what was shipped, or signed, before."""


class Misplaced(Exception):  # noqa: N818
    """It does not begin where the copy ends: the shipper has to ask for the position."""


class _End(NamedTuple):
    """How far a copy is: entries and the edge of their tree, first entry and length of the last segment."""

    size: int
    edge: tuple[bytes, ...]
    first: int
    offset: int


class Shipped:
    """One log's copy. INVARIANT: what `signed` covers is durable, proved, and never written again."""

    def __init__(self, folder: Path, key: Key) -> None:
        """Use `open`."""
        self.folder = folder
        self.signed: Checkpoint | None = None
        self._key = key
        self._files = Files()
        self._tree = Tree()
        self._first = 0
        self._offset = 0
        self._good = self._end()
        self._fresh: set[Path] = set()  # written, and not durable yet

    @classmethod
    def open(cls, folder: Path, key: Key) -> Self:
        """What is there, hashed anew; what a crash tore is cut off. Raises Unproved, OSError."""
        made = cls(folder, key)
        if folder.is_dir():
            made._read_in()
        return made

    @staticmethod
    def covered(folder: Path) -> Checkpoint | None:
        """By the last checkpoint that was taken; it was verified then."""
        with contextlib.suppress(FileNotFoundError, UnicodeDecodeError, Unproved):
            text = (folder / CHECKPOINT).read_text(encoding="utf-8").partition("\n\n")[0]
            return read_checkpoint(f"{text}\n")
        return None

    @staticmethod
    def enlist(ledger: Path, note: bytes, key: Key) -> None:
        """Take the signed list of logs. Raises Unproved, Forked for one that lacks a log that was listed before."""
        path = ledger / LIST
        listed = [_origin(each) for each in read_list(note, key)]
        with contextlib.suppress(FileNotFoundError, Unproved):
            before = [_origin(each) for each in read_list(path.read_bytes(), key)]
            if missing := [each for each in before if each not in listed]:
                raise Forked(f"it names `{missing[0]}` no more")
        ledger.mkdir(parents=True, exist_ok=True, mode=0o750)
        Files().replace(path, note)

    def position(self) -> dict[str, int]:
        """Where the next bytes belong."""
        return {"entries": self._tree.size, "first": self._first, "offset": self._offset}

    def add(self, first: int, offset: int, data: bytes) -> None:
        """Bytes of the segment that begins with entry `first`, in whole frames. Those that are there must be the same.

        Raises Misplaced, Forked, Unproved, OSError; nothing is added then.
        """
        path = self.folder / segment_name(first)
        fresh = first == self._tree.size and first != self._first
        there = self._offset if first == self._first else 0 if fresh or not path.exists() else path.stat().st_size
        if offset > there or (first > self._first and not fresh):
            raise Misplaced(f"the copy ends at byte {self._offset} of segment {self._first}")
        known = min(there - offset, len(data))
        if known > 0:
            self._compare(path, offset, data[:known])
        rest, start = data[known:], offset + known
        if not rest:
            return
        if first != self._first and not fresh:
            raise Forked(f"segment {first} goes on where it had ended")
        spans = self._whole(rest, start, first)
        self._write(path, rest, start)
        self._tree.extend([leaf_hash(rest[begin:stop]) for begin, stop in spans])
        self._first, self._offset = first, start + len(rest)

    def sign(self, note: bytes) -> dict[str, int]:
        """Take a checkpoint: from now on what it covers counts. Raises Misplaced, Forked, Unproved, OSError."""
        now = open_checkpoint(note, self._key)
        if folder_name(now.origin) != self.folder.name:
            raise Unproved(f"the checkpoint is that of the log `{now.origin}`")
        if self.signed is not None and (
            now.size < self.signed.size or (now.size == self.signed.size != 0 and now.root != self.signed.root)
        ):
            raise Forked(
                f"{now.size} entries are signed with another root, or fewer than the {self.signed.size} before"
            )
        if self.signed == now:
            return self.position()
        if now.size != self._tree.size:
            raise Misplaced(f"the checkpoint covers {now.size} entries, and {self._tree.size} were shipped")
        if now.root != self._tree.root():
            self._cut_back()
            raise Forked(
                f"the {now.size} entries that were shipped do not have the root that is signed:"
                " they are another history than the one that was shipped before"
            )
        for path in sorted(self._fresh):
            _sync(path)
        self._files.sync_folder(self.folder)
        self._files.replace(self.folder / CHECKPOINT, note)
        self._fresh.clear()
        self.signed, self._good = now, self._end()
        return self.position()

    def _compare(self, path: Path, offset: int, data: bytes) -> None:
        with path.open("rb") as file:
            file.seek(offset)
            if file.read(len(data)) != data:
                raise Forked(f"other bytes are shipped for `{path.name}` than before, from byte {offset} on")

    def _whole(self, data: bytes, start: int, first: int) -> list[Span]:
        """The entries of frames that fill `data`, which stands at `start` of its file. Raises Unproved."""
        head = 0
        if start == 0:
            origin, number, head = _header(data)
            if folder_name(origin) != self.folder.name or number != first:
                raise Unproved(f"it holds entries from {number} on of the log `{origin}`")
        spans, end = walk(data, head, len(data))
        for begin, stop in spans:
            if crc32(data[begin:stop], start + begin - FRAME.size) != FRAME.unpack_from(data, begin - FRAME.size)[2]:
                raise Unproved("a frame's checksum is wrong")
        if end != len(data) or not spans:
            raise Unproved("what was shipped does not end with a whole entry")
        return spans

    def _write(self, path: Path, data: bytes, start: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            os.ftruncate(fd, start)  # what an attempt before left half-way
            self._files.write(fd, data, start)
        finally:
            os.close(fd)
        self._fresh.add(path)

    def _read_in(self) -> None:
        self.signed = self.covered(self.folder)
        segments = sorted((int(path.stem), path) for path in self.folder.glob(SEGMENT))
        for first, path in segments:
            if first != self._tree.size:
                break
            data = path.read_bytes()
            try:
                origin, number, head = _header(data)
                if folder_name(origin) != self.folder.name or number != first:
                    break
            except Unproved:
                break
            spans, end = walk(data, head)
            hashes = [leaf_hash(data[begin:stop]) for begin, stop in spans]
            signed = self.signed.size - first if self.signed is not None else -1
            if 0 < signed <= len(spans):
                self._tree.extend(hashes[:signed])
                self._first, self._offset = first, spans[signed - 1][1]
                self._good = self._end()
                hashes = hashes[signed:]
            self._tree.extend(hashes)
            if spans:
                self._first, self._offset = first, end
                self._fresh.add(path)
        good = Tree()
        good.size, good.edge = self._good.size, list(self._good.edge)
        if self.signed is not None and (good.size, good.root()) != (self.signed.size, self.signed.root):
            raise Unproved("the copy here is damaged: move its folder away, and it is shipped anew")
        self._cut_to(self._end())

    def _cut_back(self) -> None:
        """To what is signed."""
        good = self._good
        self._tree.size, self._tree.edge = good.size, list(good.edge)
        self._first, self._offset = good.first, good.offset
        self._cut_to(good)

    def _cut_to(self, end: _End) -> None:
        for path in self.folder.glob(SEGMENT):
            first = int(path.stem)
            if first > end.first or end.size == 0:
                path.unlink()
                self._fresh.discard(path)
            elif first == end.first and path.stat().st_size > end.offset:
                os.truncate(path, end.offset)

    def _end(self) -> _End:
        return _End(self._tree.size, tuple(self._tree.edge), self._first, self._offset)


def _header(data: bytes) -> tuple[str, int, int]:
    try:
        return read_header(data[:2048])
    except ValueError:
        raise Unproved("its header is damaged") from None


def _origin(listed: Checkpoint | str) -> str:
    return listed if isinstance(listed, str) else listed.origin


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
