"""What was added to a log since it was last looked at, proved before it is handed on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path

from entrepot.ledger.verify import (
    CHECKPOINT,
    SEGMENT,
    Checkpoint,
    Key,
    Tree,
    Unproved,
    folder_name,
    open_checkpoint,
    read_header,
    walk,
)

_HEADER = 2048


class Tail:
    """Of one log's folder, while it is written or copied. For one thread at a time. Methods raise Unproved, OSError."""

    def __init__(self, folder: Path, key: Key) -> None:
        self.folder = folder
        self._key = key
        self._note = b""
        self._signed: Checkpoint | None = None
        # Where an entry begins: its number, its segment, the offset there. Found anew when that is not it.
        self._known = (-1, folder, 0)

    def signed(self) -> Checkpoint | None:
        """The last checkpoint, its signature verified; None while there is none."""
        try:
            note = (self.folder / CHECKPOINT).read_bytes()
        except FileNotFoundError:
            return None
        if note != self._note:
            signed = open_checkpoint(note, self._key)
            if folder_name(signed.origin) != self.folder.name:
                raise Unproved(f"its checkpoint is that of the log `{signed.origin}`")
            self._signed, self._note = signed, note
        return self._signed

    def prove(self, size: int, edge: Sequence[bytes], signed: Checkpoint) -> list[bytes]:
        """Hashes of the entries from `size` on that `signed` covers.

        They are proved to continue the tree of the `size` entries with this edge, which was proved earlier.
        """
        tree = Tree()
        tree.size, tree.edge = size, list(edge)
        if size > signed.size:
            raise Unproved(f"it was cut back: {signed.size} entries are signed, {size} were taken before")
        hashes = [_hash(entry) for entry in self._read(size, signed.size)]
        tree.extend(hashes)
        if tree.root() != signed.root:
            raise Unproved(
                f"the first {signed.size} entries do not have the root that the checkpoint signs:"
                " an entry was changed, replaced, added, removed or put in another order"
            )
        return hashes

    def take(self, start: int, hashes: Sequence[bytes]) -> list[bytes]:
        """The entries from `start` on that have these hashes."""
        stop = start + len(hashes)
        entries = list(self._read(start, stop, keep=True))
        for index, (entry, wanted) in enumerate(zip(entries, hashes, strict=True), start):
            if _hash(entry) != wanted:
                raise Unproved(f"entry {index} changed while it was read")
        return entries

    def _read(self, start: int, stop: int, *, keep: bool = False) -> Iterator[bytes]:
        """Entries `start` to `stop`. Checksums are passed over: the caller checks hashes."""
        index = start
        segments = sorted((int(path.stem), path) for path in self.folder.glob(SEGMENT))
        ends = [first for first, _ in segments[1:]] + [stop]
        for (first, path), end in zip(segments, ends, strict=True):
            if index >= stop or end <= index:
                continue
            if first > index:
                break
            at, offset, data = self._open(path, first, index)
            spans, _ = walk(data, 0, stop - at)
            for begin, until in spans[index - at : stop - at]:
                yield data[begin:until]
                index += 1
                if keep and index == stop:
                    self._known = (stop, path, offset + until)
        if index < stop:
            raise Unproved(f"entry {index} is damaged or missing: the checkpoint covers it")

    def _open(self, path: Path, first: int, index: int) -> tuple[int, int, bytes]:
        """Number of an entry not behind `index`, its offset, and the segment from there on."""
        number, known, offset = self._known
        with path.open("rb") as file:
            if (number, known) != (index, path):
                try:
                    number, offset = first, read_header(file.read(_HEADER))[2]
                except ValueError:
                    raise Unproved(f"the header of `{path.name}` is damaged") from None
            file.seek(offset)
            return number, offset, file.read()


def _hash(entry: bytes) -> bytes:
    return sha256(b"\0" + entry).digest()
