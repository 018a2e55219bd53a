"""Makes receipts from a log's files alone, in any process: the entry, its proof, and the checkpoint that covers it."""

from __future__ import annotations

import errno
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from entrepot.ledger.derived import Derived, Stored
from entrepot.ledger.log import Places
from entrepot.ledger.note import write_receipt
from entrepot.ledger.tree import Growth, Proofs
from entrepot.ledger.verify import (
    CHECKPOINT,
    FRAME,
    SEGMENT,
    Checkpoint,
    Unproved,
    check_inclusion,
    leaf_hash,
    read_checkpoint,
    read_header,
    segment_name,
    walk,
)

_NO_SUCH_LOG = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})


def receipt_of(places: Places, origin: str, index: int) -> bytes | None:
    """None when there is no such log, or no checkpoint covers the entry yet. Raises OSError.

    Derived files that are missing, behind or wrong are made anew. Raises Unproved where the log is damaged.
    """
    folder = places.log(origin)
    try:
        note = (folder / CHECKPOINT).read_bytes()
    except ValueError:  # as what follows, a name that no file can have
        return None
    except OSError as wrong:
        if wrong.errno in _NO_SUCH_LOG:
            return None
        raise
    signed = read_checkpoint(note.decode(errors="replace").partition("\n\n")[0] + "\n")
    if signed.origin != origin or not 0 <= index < signed.size:
        return None
    derived = places.derived(origin)
    with suppress(Unproved, LookupError):
        return _make(folder, derived, signed, index, note)
    rebuild(folder, derived, signed.size)
    try:
        return _make(folder, derived, signed, index, note)
    except LookupError as wrong:
        raise Unproved(str(wrong)) from wrong


def _make(folder: Path, derived: Path, signed: Checkpoint, index: int, note: bytes) -> bytes:
    """Raises Unproved or LookupError when the derived files do not fit."""
    stored = Stored(derived)
    entry = read_entry(folder, index, stored.offset(index))
    path = Proofs(stored.hashes, signed.size).inclusion(index)
    check_inclusion(index, signed.size, leaf_hash(entry), path, signed.root)
    return write_receipt(index, entry, path, note)


def read_entry(folder: Path, index: int, offset: int) -> bytes:
    """Entry `index`, whose frame begins at `offset` of its segment. Raises LookupError when no frame does."""
    first = max((number for path in folder.glob(SEGMENT) if (number := int(path.stem)) <= index), default=0)
    with (folder / segment_name(first)).open("rb") as file:
        file.seek(offset)
        head = file.read(FRAME.size)
        if len(head) < FRAME.size:
            raise LookupError(f"entry {index} does not stand at {offset}")
        return file.read(int(FRAME.unpack(head)[1]))


def rebuild(folder: Path, derived: Path, size: int) -> None:
    """Make the derived files from the entries, of which a checkpoint covers `size`.

    Raises Unproved where one of these is damaged: the files stay as they are then, for receipts of the others.
    """
    growth, made = Growth(), []
    for path in sorted(folder.glob(SEGMENT)):
        data = path.read_bytes()
        try:
            _, first, start = read_header(data)
        except ValueError:
            raise Unproved(f"the header of `{path.name}` is damaged") from None
        if first != growth.size:
            break
        spans, _ = walk(data, start)
        hashes = [sha256(data[start - 1 : stop]).digest() for start, stop in spans]
        made.append((growth.extend(hashes), [start - FRAME.size for start, _ in spans]))
    if growth.size < size:
        raise Unproved(f"entry {growth.size} is damaged or missing: the checkpoint covers it")
    anew = Derived(derived)
    for each, offsets in made:
        anew.add(each, offsets)
    anew.flush()
    anew.close()
