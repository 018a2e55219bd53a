"""Opens a log that exists: what was acknowledged is in it, what was not is set aside, and anything else is refused.

This is how every start goes, after a crash or not.
"""

from __future__ import annotations

import logging
import mmap
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from struct import Struct
from typing import NamedTuple
from zlib import crc32

from entrepot.ledger.entries import commitment_of
from entrepot.ledger.faults import LedgerRefused
from entrepot.ledger.files import Files
from entrepot.ledger.frames import erased, is_erased, private_file, records, settled
from entrepot.ledger.keys import Signer
from entrepot.ledger.log import Log, Places, quarantine
from entrepot.ledger.verify import (
    ADMITTED,
    BATCH,
    CHECKPOINT,
    FRAME,
    SEGMENT,
    Bytes,
    Checkpoint,
    Unproved,
    is_blank,
    open_checkpoint,
    read_header,
    segment_name,
    walk,
)

WHAT_NOW = (
    "nothing was changed; restore the log's folder from a copy that verifies (`entrepot ledger verify`),"
    " or keep it as evidence: move the ledger's folder away and give the gateway another `log_name`, and it begins a"
    " new one. Under the name that it had, the new logs would be called like the old ones"
)

# So many entries before the last checkpoint are hashed anew at a start. Of those before them a start takes the derived
# hashes' word; `verify` reads them all.
RECENT = 1 << 17
_AT_ONCE = 4096
CHECKSUM = Struct(">I")
_HEAD = FRAME.size
_SUM = 5  # where the checksum stands before the data
_D = ord("d")  # of decisions only their beginning is looked at

_log = logging.getLogger(__name__)


class _Segment(NamedTuple):
    path: Path
    first: int
    data: Bytes
    spans: list[tuple[int, int]]
    end: int


def recover(files: Files, places: Places, signer: Signer, origin: str) -> Log:
    """The log as it was acknowledged, ready to be appended to. Raises LedgerRefused, or OSError."""
    folder = places.log(origin)
    signed = _signed(folder, signer, origin)
    log = Log(files, places, signer, signed)
    try:
        last = _read(log, folder, signed)
        _refuse_what_is_gone(log, last, signed)
        _make_durable(files, places, origin, last, signed)
        if log.undisclosed:
            _log.warning(
                "the process before died while it wrote; entries of which nobody was told lack their personal data",
                extra={"fields": {"log": origin, "entries": log.undisclosed}},
            )
        log.resume(last.first, last.end, _clean(files, folder, last.first, log.size, signed.size))
    except BaseException:
        log.abandon()
        raise
    return log


def _refuse_what_is_gone(log: Log, last: _Segment, signed: Checkpoint) -> None:
    if log.size < signed.size:
        raise LedgerRefused(
            f"the log `{log.origin}` holds {log.size} entries, but its last checkpoint signs {signed.size}: entries"
            " that were acknowledged are gone. The disk lost them, an old copy was restored, or they were removed;"
            f" {WHAT_NOW}"
        )
    if not is_blank(last.data, last.end) and batch_begins(last.data, last.end + 1):
        # A batch is only begun when the one before it is durable: this is no torn write, it was damaged later.
        raise LedgerRefused(
            f"entry {log.size} of the log `{log.origin}` is damaged (`{last.path.name}`, byte {last.end}), and later"
            f" entries stand behind it: it was acknowledged and then changed; {WHAT_NOW}"
        )


def _signed(folder: Path, signer: Signer, origin: str) -> Checkpoint:
    """The last checkpoint; what an interrupted replacement left beside it is removed."""
    for left in folder.glob(".*.new"):
        left.unlink()
    try:
        signed = open_checkpoint((folder / CHECKPOINT).read_bytes(), signer.key)
    except FileNotFoundError:
        raise LedgerRefused(f"the checkpoint of the log `{origin}` is missing; {WHAT_NOW}") from None
    except Unproved as wrong:
        raise LedgerRefused(f"the checkpoint of the log `{origin}`: {wrong}; {WHAT_NOW}") from wrong
    if signed.origin != origin:
        raise LedgerRefused(f"the checkpoint in `{folder}` is that of the log `{signed.origin}`; {WHAT_NOW}")
    return signed


def _read(log: Log, folder: Path, signed: Checkpoint) -> _Segment:
    """Every entry into the log, one segment after the other; the last segment, whose end may be torn."""
    last: _Segment | None = None
    for path in sorted(folder.glob(SEGMENT)):
        if last is not None and not is_blank(last.data, last.end):
            raise LedgerRefused(f"`{last.path}` is damaged at byte {last.end}; {WHAT_NOW}")
        last = _segment(path, log, signed)
        _read_in(log, last, signed)
        log.undisclosed += _undisclosed(folder, last, signed)
    if last is None:
        raise LedgerRefused(f"the log `{log.origin}` has no segments; {WHAT_NOW}")
    return last


def _segment(path: Path, log: Log, signed: Checkpoint) -> _Segment:
    """The one that goes on where the log stands."""
    data = _map(path)
    try:
        named, first, start = read_header(data)
    except (Unproved, ValueError):
        raise LedgerRefused(f"the header of `{path}` is damaged; {WHAT_NOW}") from None
    if (named, segment_name(first)) != (log.origin, path.name):
        raise LedgerRefused(f"`{path}` holds entries from {first} on of the log `{named}`; {WHAT_NOW}")
    if first != log.size:
        raise LedgerRefused(
            f"entry {log.size} of the log `{log.origin}` is missing or damaged: `{path.name}` goes on with entry"
            f" {first}; {WHAT_NOW}"
        )
    spans, end = walk(data, start, signed.size - first)  # what is signed is checked as it is read in
    return _Segment(path, first, data, spans, end)


def batch_begins(data: Bytes, offset: int) -> bool:
    """Whether a whole first frame of a batch stands anywhere from `offset` on."""
    while (offset := data.find(BATCH, offset)) >= 0:
        if walk(data, offset)[0]:
            return True
        offset += 1
    return False


def _map(path: Path) -> Bytes:
    """The file's bytes without a copy of them. Nobody else changes it: the writer's lock is held."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if file.seek(0, 2) else b""


def _read_in(log: Log, segment: _Segment, signed: Checkpoint) -> None:
    """A few thousand entries at a time, halting where the checkpoint's root is to be compared."""
    data, view, spans, checksum = segment.data, memoryview(segment.data), segment.spans, CHECKSUM.unpack_from
    cuts = {*range(0, len(spans), _AT_ONCE), len(spans)}
    if 0 <= signed.size - segment.first <= len(spans):
        cuts.add(signed.size - segment.first)
    for start, stop in pairwise(sorted(cuts)):
        part = spans[start:stop]
        entries = [data[a:b] if data[a + 2] != _D else data[a : a + len(ADMITTED)] for a, b in part]
        offsets = [a - FRAME.size for a, _ in part]
        if log.growth.known is not None and segment.first + stop <= signed.size - RECENT:
            # Long ago, and the stored hashes lead to the root that was signed: frames are followed, not hashed again.
            hashes = log.growth.known.leaves(segment.first + start, len(part))
        elif any(crc32(view[a:b], a - _HEAD) != checksum(view, a - _SUM)[0] for a, b in part):
            raise LedgerRefused(f"a checksum in `{segment.path}` was changed, behind byte {offsets[0]}; {WHAT_NOW}")
        else:
            # No copies: a leaf's hash is that of the bytes as they stand, with the zero that ends the head.
            hashes = [sha256(view[a - 1 : b]).digest() for a, b in part]
        try:
            log.read_in(entries, hashes, offsets)
        except ValueError as wrong:
            raise LedgerRefused(f"an entry of the log `{signed.origin}` is damaged: {wrong}; {WHAT_NOW}") from wrong
        if log.size == signed.size and log.growth.root() != signed.root:
            raise LedgerRefused(
                f"the first {signed.size} entries of the log `{signed.origin}` do not have the root that was signed:"
                f" an entry was changed, replaced or put in another order; {WHAT_NOW}"
            )


def _make_durable(files: Files, places: Places, origin: str, last: _Segment, signed: Checkpoint) -> None:
    """Entries behind the checkpoint are written and synced again; what is no entry is set aside and cut off.

    What we read may stand in the kernel's memory only: after a failed sync pages count as clean that never reached the
    disk. Writing them again makes them what they seem before anything is signed over them.
    """
    torn = not is_blank(last.data, last.end)
    if torn:
        quarantine(files, places.quarantine(origin), last.path.name, last.data[last.end :])
    behind = max(0, signed.size - last.first)
    start = last.spans[behind][0] - FRAME.size if behind < len(last.spans) else last.end
    if start == last.end and not torn:
        return
    fd = files.open(last.path)
    try:
        files.write(fd, last.data[start : last.end], start)
        if torn:
            files.cut(fd, last.end)
        files.sync(fd)
    finally:
        files.close(fd)


def _undisclosed(folder: Path, segment: _Segment, signed: Checkpoint) -> list[int]:
    """The entries behind the checkpoint that commit to personal data which is not there.

    A batch's two files become durable in no order, so these are of one that was under way. Those that a checkpoint
    covers were whole when it was signed, and are not looked at.
    """
    behind = max(signed.size, segment.first)
    tail = segment.spans[behind - segment.first :]
    committed = [at for at, (a, b) in enumerate(tail, behind) if commitment_of(segment.data[a:b]) is not None]
    if not committed:
        return []
    path = private_file(folder, segment.first)
    data = path.read_bytes() if path.exists() else b""
    there = {one.number for one in records(data) if one.private is not None or is_erased(data, one)}
    return [at for at in committed if at not in there]


def _clean(files: Files, folder: Path, first: int, size: int, signed: int) -> int:
    """The end of the side file, without records that are torn or whose entry never came.

    What is left of a record that was torn, or half erased, is erased: nobody else would find it there. Where entries
    stand behind the checkpoint the file is written again, for the reason that `_make_durable` gives.
    """
    path = private_file(folder, first)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with settled(path.parent):
        data = path.read_bytes() if path.exists() else b""
        kept, end = bytearray(data), 0
        for record in records(data):
            if record.number >= size:
                break
            end = record.stop
            if record.private is None:
                kept[record.start : end] = erased(record)
        if size > signed or not path.exists() or not is_blank(data, end) or kept != data:
            files.replace(path, bytes(kept[:end]))
    return end
