"""One log on disk: its segments, the side files of personal data, its tree and its signed checkpoint.

For one thread at a time, but for `checkpoint`, which may run beside it. Files are the truth: the order of writes below
is what makes an acknowledged entry survive.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from msgspec import UNSET

from entrepot.ledger.derived import Derived, Stored
from entrepot.ledger.entries import Closed, Opened, decode
from entrepot.ledger.files import Files
from entrepot.ledger.flushes import Flushes
from entrepot.ledger.frames import framed, header, header_end, private_file, recorded, settled
from entrepot.ledger.keys import Signer
from entrepot.ledger.store import Store
from entrepot.ledger.tree import Growth, known
from entrepot.ledger.verify import (
    ADMITTED,
    CHECKPOINT,
    OUTCOME,
    Checkpoint,
    decision_of,
    folder_name,
    segment_name,
    walk,
)

SEGMENT_BYTES = 1 << 26
LONGEST_BEFORE = 50  # bytes of an outcome before its reference
OPENED, CLOSED = b'{"opened":', b'{"closed":'

log = logging.getLogger(__name__)


class Places(NamedTuple):
    """The data folder, and where the parts of a log are in it."""

    data: Path

    @property
    def ledger(self) -> Path:
        return self.data / "ledger"

    def log(self, origin: str) -> Path:
        return self.ledger / folder_name(origin)

    def derived(self, origin: str) -> Path:
        return self.data / "derived" / "ledger" / folder_name(origin)

    def quarantine(self, origin: str) -> Path:
        return self.data / "quarantine" / folder_name(origin)


class Batch(NamedTuple):
    """Entries in their order; `privates[i]` is salt and value of entry i's personal data, where it has any."""

    entries: list[bytes]
    privates: list[bytes | None]


class Put(NamedTuple):
    """A batch that is written, to be durable or taken back. `parts` are what was put to which file."""

    entries: list[bytes]
    offsets: list[int]
    parts: list[tuple[Store, bytes]]


class Log:
    """`size` entries are durable. `open` holds the indices of admitted decisions without an outcome, by log.

    `ended` is the log that goes on from here, once the entry that says so is durable. `undisclosed` are the entries
    that recovery found without the personal data that they commit to: nobody had been told of them.
    """

    def __init__(self, files: Files, places: Places, signer: Signer, signed: Checkpoint) -> None:
        """Of a log with its last checkpoint; `read_in` gives it what stands there, then `resume` lets it append."""
        self.origin = origin = signed.origin
        self.folder = places.log(origin)
        # Derived files are begun anew, but what they hold of the tree saves most of the work of making it again.
        self.growth = Growth(known(Stored(places.derived(origin)).hashes, signed.size, signed.root))
        self.open: dict[str, set[int]] = {}
        self.signed = signed
        self.ended: str | None = None
        self.undisclosed: list[int] = []
        self.segment_bytes = SEGMENT_BYTES
        self._first = 0
        self._files = files
        self._places = places
        self._signer = signer
        self._derived = Derived(places.derived(origin))
        self._segment: Store | None = None
        self._private: Store | None = None
        self._torn = False
        self._growing = Lock()
        self._signing = Lock()

    @property
    def size(self) -> int:
        return self.growth.size

    def read_in(self, entries: Sequence[bytes], hashes: Sequence[bytes], offsets: Sequence[int]) -> None:
        """Entries that are durable in a segment, before anything is appended."""
        self._grow(entries, hashes, offsets)
        self._derived.flush()

    def resume(self, first: int, end: int, private_end: int) -> None:
        """Append from here on: first entry and end of the last segment, end of its side file. Raises OSError."""
        self.growth.known = None  # it has served
        self._first = first
        self._segment = Store(self._files, self.folder / segment_name(self._first), end)
        self._private = Store(self._files, private_file(self.folder, self._first), private_end)

    def append(self, batch: Batch) -> int:
        """The index of the first, all durable on return. Raises OSError, and then none of them is in the log."""
        put = self._framed(batch, *self._ready())
        try:
            for store, data in put.parts:
                store.make_room(len(data))
            fds = [store.put(data) for store, data in put.parts]
        except OSError:
            self._take_back(put)
            raise
        try:
            self._files.sync_all(fds)
        except OSError as failure:
            return self.end_append(put, failure)
        return self.end_append(put, None)

    def begin_append(self, batch: Batch, flushes: Flushes) -> Put | None:
        """Write the batch and have it made durable meanwhile; then `end_append` it. For a thread that must not wait.

        None where something comes first that takes its time: a mend, a new segment, room, a failure. `append` it then.
        """
        segment, private = self._segment, self._private
        if self._torn or segment is None or private is None or segment.end > self.segment_bytes:
            return None
        put = self._framed(batch, segment, private)
        if not all(store.has_room(len(data)) for store, data in put.parts):
            return None
        try:
            flushes.begin([store.put(data) for store, data in put.parts])
        except OSError:
            self._take_back(put)
            return None
        return put

    def end_append(self, put: Put, failure: OSError | None) -> int:
        """What was put is durable, or that failed: the index of the first. Raises the failure; then nothing was put."""
        if failure is not None:
            # The kernel reports a failed write-back once and forgets it: another sync could succeed without the data.
            # One of the two may be durable all the same.
            for store, _ in put.parts:
                store.poisoned = True
            self._take_back(put)
            raise failure
        for store, data in put.parts:
            store.keep(len(data))
        # Only what is durable enters the tree, so that no checkpoint can ever sign what a crash takes back.
        index = self.size
        self._grow(put.entries, [sha256(b"\x00" + entry).digest() for entry in put.entries], put.offsets)
        return index

    def checkpoint(self) -> bool:
        """Sign the log as it stands, if it grew since. From any thread. Raises OSError; the one before then stays."""
        with self._signing:
            with self._growing:
                now = Checkpoint(self.origin, self.size, self.growth.root())
                grown = self._derived.take()
            self._derived.write(grown)
            if now.size == self.signed.size:
                return False
            # INVARIANT: a checkpoint covers durable entries only, and each one continues the one before: the tree only
            # ever grows by what `append` made durable. The file is replaced as a whole.
            try:
                self._files.replace(self.folder / CHECKPOINT, self._signer.sign(str(now)))
            except FileNotFoundError:
                # The folder is gone: what is appended goes to files without a name. So the next append has to find
                # what was acknowledged first, and fails until the folder is back.
                self._torn = True
                raise
            self.signed = now
            return True

    def abandon(self) -> None:
        """Let go of the files as they are."""
        for store in self._let_go():
            store.close()

    def close(self) -> None:
        """Give back what was allocated ahead. What was acknowledged stays so even if this raises OSError."""
        for store in self._let_go():
            store.close(final=True)

    def _let_go(self) -> list[Store]:
        stores, self._segment, self._private = (self._segment, self._private), None, None
        with self._signing:
            self._derived.flush()
            self._derived.close()
        return [store for store in stores if store is not None]

    def _framed(self, batch: Batch, segment: Store, private: Store) -> Put:
        """The batch as it is to stand in both files.

        They become durable in no order, and nothing is acknowledged before both are. If we die between the two, nobody
        has heard of the batch, and the next start finds one of three things: entries with their personal data, which
        stay, as after a death just before the acknowledgement; personal data without its entries, which is cut off;
        entries without their personal data, which stay too, for whole entries are never removed, and are named in
        `opened` (`recover._undisclosed`). None of these can be behind a checkpoint or before another batch: both begin
        only when both files are durable.
        """
        data, offsets = framed(batch.entries, segment.end)
        personal = recorded(self.size, batch.privates, private.end)
        return Put(batch.entries, offsets, [(segment, data), (private, personal)] if personal else [(segment, data)])

    def _take_back(self, put: Put) -> None:
        for store, _ in put.parts:
            store.take_back()
            self._torn = self._torn or store.poisoned

    def _grow(self, entries: Sequence[bytes], hashes: Sequence[bytes], offsets: Sequence[int]) -> None:
        with self._growing:
            index = self.growth.size
            self._derived.add(self.growth.extend(hashes), offsets)
        self._follow(index, entries)

    def _ready(self) -> tuple[Store, Store]:
        """The segment to append to, and its side file. Raises OSError."""
        if self._torn:
            self._mend()
        if self._segment is not None and self._private is not None and self._segment.end > self.segment_bytes:
            self._roll((self._segment, self._private))
        if self._segment is None or self._private is None:
            raise RuntimeError("a closed log is appended to")
        return self._segment, self._private

    def _follow(self, index: int, entries: Sequence[bytes]) -> None:
        """Keep `open` up to date."""
        mine = self.open.setdefault(self.origin, set())
        reference = b'"decision":"' + self.origin.encode() + b"/"
        length = len(reference)
        for at, entry in enumerate(entries, index):
            if entry.startswith(ADMITTED):
                mine.add(at)
            elif entry.startswith(OUTCOME):
                start = entry.find(reference, 0, LONGEST_BEFORE + length)
                if start >= 0:
                    mine.discard(int(entry[start + length : entry.index(b'"', start + length)]))
                else:
                    origin, number = decision_of(entry) or ("", -1)
                    self.open.get(origin, mine).discard(number)
            elif entry.startswith((OPENED, CLOSED)):
                told = decode(entry)
                if isinstance(told, Opened) and told.open is not UNSET:
                    for one in told.open:
                        origin, _, number_text = one.rpartition("/")
                        self.open.setdefault(origin, set()).add(int(number_text))
                elif isinstance(told, Closed) and told.next is not UNSET:
                    self.ended = told.next

    def _begin_segment(self) -> None:
        """A segment that begins with the next entry. Its side file comes first, so that a segment always has one."""
        first = self.size
        path = private_file(self.folder, first)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        private = Store.create(self._files, path, b"")
        segment = Store.create(self._files, self.folder / segment_name(first), header(self.origin, first))
        self._first, self._segment, self._private = first, segment, private

    def _roll(self, full: Sequence[Store]) -> None:
        self._begin_segment()
        for store in full:
            store.close(final=True)

    def _mend(self) -> None:
        """After a failed sync: keep the tail as evidence, write what was acknowledged to a new file, begin a segment.

        The file that failed is not synced again; its name goes to a file that holds the acknowledged bytes only.
        Can be tried again when it fails half-way.
        """
        segment, private = self._segment, self._private
        assert segment is not None, "a log is only torn by its own writes"
        assert private is not None
        data = segment.path.read_bytes()
        if walk(data, header_end(data))[1] < segment.end:
            raise OSError(f"acknowledged entries cannot be read back from `{segment.path}`")
        quarantine(self._files, self._places.quarantine(self.origin), segment.path.name, data[segment.end :])
        self._files.replace(segment.path, data[: segment.end])
        with settled(private.path.parent):
            self._files.replace(private.path, private.path.read_bytes()[: private.end])
        if self.size > self._first:
            self._begin_segment()
        else:
            # Nothing was acknowledged in that segment: the new file takes its place.
            self.resume(self._first, len(header(self.origin, self._first)), 0)
        self._torn = False
        segment.close()
        private.close()


def quarantine(files: Files, folder: Path, name: str, tail: bytes) -> None:
    """Keep bytes that were never acknowledged as evidence. Raises OSError."""
    tail = tail.rstrip(b"\0")
    if tail:
        folder.mkdir(parents=True, exist_ok=True)
        kept = folder / f"{name}.{time.time_ns()}.tail"
        files.replace(kept, tail)
        log.error("unacknowledged bytes were set aside", extra={"fields": {"file": str(kept), "bytes": len(tail)}})
