"""Verifies logs and receipts of an Entrepot ledger, offline. Owns hashing, notes, proofs and framing.

Needs the standard library and `cryptography` only, and can be copied out and run alone:

    python verify.py receipt FILE --key VKEY
    python verify.py log DIR --key VKEY [--since CHECKPOINT]

VKEY is a verifier key or a file that holds one. Exit status: 0 proved, 1 not proved, 2 wrong usage.
Formats: RFC 6962 §2.1 (tree), C2SP signed-note, tlog-checkpoint, tlog-proof; framing and entries: docs/ledger.md.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import json
import mmap
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

ED25519 = b"\x01"  # C2SP signed-note, signature types
EMPTY_ROOT = sha256(b"").digest()


class Unproved(Exception):  # noqa: N818 - named for what it says
    """What was to be shown is not shown; the message says why."""


def leaf_hash(entry: bytes) -> bytes:
    """RFC 6962 §2.1, as all of the tree."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


class Tree:
    """The growing edge of a tree: `size` leaves, and the roots of the full subtrees over them, largest first."""

    __slots__ = ("edge", "size")

    def __init__(self) -> None:
        self.size = 0
        self.edge: list[bytes] = []

    def extend(self, hashes: Sequence[bytes]) -> None:
        """Add leaves by their hashes; where 256 make up a full subtree, level by level, which is quicker."""
        at, size, edge = 0, self.size, self.edge
        while at < len(hashes):
            node, step = hashes[at], 1
            if size & 255 == 0 and len(hashes) - at >= 256:
                nodes, step = hashes[at : at + 256], 256
                while len(nodes) > 1:
                    nodes = [sha256(b"\x01" + a + b).digest() for a, b in zip(nodes[::2], nodes[1::2], strict=True)]
                node = nodes[0]
            bits = size // step
            while bits & 1:
                node = sha256(b"\x01" + edge.pop() + node).digest()
                bits >>= 1
            edge.append(node)
            size += step
            at += step
        self.size = size

    def root(self) -> bytes:
        if not self.edge:
            return EMPTY_ROOT
        node = self.edge[-1]
        for left in reversed(self.edge[:-1]):
            node = node_hash(left, node)
        return node


def check_inclusion(index: int, size: int, leaf: bytes, path: Sequence[bytes], root: bytes) -> None:
    """RFC 9162 §2.1.3.2. Raises Unproved unless `leaf` is the hash of entry `index` of the tree of `size` entries."""
    if not 0 <= index < size:
        raise Unproved(f"entry {index} is beyond the {size} entries of the checkpoint")
    number, last, node = index, size - 1, leaf
    for step in path:
        if last == 0:
            raise Unproved("the inclusion proof is too long")
        if number & 1 or number == last:
            node = node_hash(step, node)
            while not number & 1 and number:
                number, last = number >> 1, last >> 1
        else:
            node = node_hash(node, step)
        number, last = number >> 1, last >> 1
    if last:
        raise Unproved("the inclusion proof is too short")
    if node != root:
        raise Unproved("the entry and its proof do not lead to the root that was signed")


class Key(NamedTuple):
    """A verifier key of C2SP signed-note: `name+hash+base64`, the hash in eight hexadecimal digits."""

    name: str
    id: bytes
    public: bytes

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(ED25519 + self.public).decode()}"


class Checkpoint(NamedTuple):
    origin: str
    size: int
    root: bytes

    def __str__(self) -> str:
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def key_of(name: str, public: bytes) -> Key:
    return Key(name, sha256(name.encode() + b"\n" + ED25519 + public).digest()[:4], public)


def read_key(text: str) -> Key:
    """Raises Unproved for what is no Ed25519 verifier key."""
    name, _, rest = text.strip().partition("+")
    digits, _, encoded = rest.partition("+")
    raw = _unbase64(encoded)
    if raw is None or len(raw) != 33 or raw[:1] != ED25519:
        raise Unproved(f"`{text.strip()[:60]}` is no Ed25519 verifier key of the form name+hash+base64")
    key = key_of(name, raw[1:])
    if key.id.hex() != digits:
        raise Unproved(f"the verifier key of `{name}` does not match its hash; it was changed")
    return key


def open_note(note: bytes, key: Key) -> str:
    """The signed text. Raises Unproved unless `key` signed it; signatures of other keys are passed over."""
    try:
        text, blank, signatures = note.decode().rpartition("\n\n")
    except UnicodeDecodeError:
        raise Unproved("the signed note is no UTF-8 text") from None
    if not blank or not signatures.endswith("\n"):
        raise Unproved("the signed note is incomplete")
    text, signed = text + "\n", False
    for line in signatures[:-1].split("\n"):
        dash, _, rest = line.partition(" ")
        name, _, encoded = rest.partition(" ")
        raw = _unbase64(encoded)
        if dash != "—" or not name or raw is None or len(raw) < 5:
            raise Unproved("a signature line of the note is malformed")
        if name == key.name and raw[:4] == key.id:
            try:
                Ed25519PublicKey.from_public_bytes(key.public).verify(raw[4:], text.encode())
            except InvalidSignature:
                raise Unproved(f"the signature of `{key.name}` is wrong: the signed text was changed") from None
            signed = True
    if not signed:
        raise Unproved(f"it is not signed by the key `{key.name}` ({key.id.hex()})")
    return text


def open_checkpoint(note: bytes, key: Key) -> Checkpoint:
    """Raises Unproved unless `key` signed it and the log is one of the key's: its origin is below the key's name."""
    checkpoint = read_checkpoint(open_note(note, key))
    if not f"{checkpoint.origin}/".startswith(f"{key.name}/"):
        raise Unproved(f"the checkpoint is of `{checkpoint.origin}`, which is not below the key's name `{key.name}`")
    return checkpoint


def open_checkpoints(notes: bytes, key: Key) -> list[Checkpoint]:
    """Of a file that holds one or several, with a blank line between each and the next."""
    parts = notes.rstrip(b"\n").split(b"\n\n")
    return [open_checkpoint(b"\n\n".join(parts[at : at + 2]) + b"\n", key) for at in range(0, len(parts), 2)]


def read_checkpoint(text: str) -> Checkpoint:
    """Raises Unproved. Nothing is proved by it: the signature is `open_checkpoint`'s."""
    lines = text.split("\n")
    root = _unbase64(lines[2]) if len(lines) == 4 else None
    if root is None or len(root) != 32 or not _is_number(lines[1]):
        raise Unproved("the checkpoint is malformed")
    return Checkpoint(lines[0], int(lines[1]), root)


class Receipt(NamedTuple):
    """What a verified receipt proves: `entry` is number `number` of the log that `checkpoint` covers."""

    checkpoint: Checkpoint
    number: int
    entry: bytes


RECEIPT = "c2sp.org/tlog-proof@v1"


def open_receipt(data: bytes, key: Key) -> Receipt:
    """Raises Unproved with the first thing that is wrong with it."""
    try:
        proof, blank, note = data.decode().partition("\n\n")
    except UnicodeDecodeError:
        raise Unproved("the receipt is no UTF-8 text") from None
    lines = proof.split("\n")
    if not blank or lines[0] != RECEIPT or len(lines) < 3:
        raise Unproved(f"it is no receipt: it does not begin as `{RECEIPT}` or is cut short")
    entry = _unbase64(lines[1].removeprefix("extra ")) if lines[1].startswith("extra ") else None
    if entry is None:
        raise Unproved("the entry in its `extra` line is no base64")
    number = lines[2].removeprefix("index ")
    if not lines[2].startswith("index ") or not _is_number(number):
        raise Unproved("its `index` line is malformed")
    path = [_unbase64(line) for line in lines[3:]]
    whole = [step for step in path if step is not None and len(step) == 32]
    if len(whole) != len(path):
        raise Unproved("a hash of its proof is malformed")
    checkpoint = open_checkpoint(note.encode(), key)
    check_inclusion(int(number), checkpoint.size, leaf_hash(entry), whole, checkpoint.root)
    return Receipt(checkpoint, int(number), entry)


def _unbase64(text: str) -> bytes | None:
    """Strict: one spelling for one value."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if base64.b64encode(raw).decode() == text else None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 16 and (text == "0" or text[0] != "0")


# Framing: docs/ledger.md, "Segments".

FRAME = struct.Struct(">3sIIB")
HEADER, BATCH, ENTRY = b"EpH", b"EpB", b"Ep."
SEGMENT = "*.entries"
CHECKPOINT = "checkpoint"
LIST = "logs"
LIST_TITLE = "entrepot-ledger-logs@v1"
PRIVATE = "private"

Span = tuple[int, int]
Bytes = bytes | mmap.mmap
Progress = Callable[[int], None]


def walk(data: Bytes, offset: int = 0, unchecked: int = 0) -> tuple[list[Span], int]:
    """The entries' places in `data`, up to the first byte that begins no whole frame, and that byte's offset.

    Of the first `unchecked` entries the checksums are passed over, for who checks the root.
    """
    spans: list[Span] = []
    unpack, head, end = FRAME.unpack_from, FRAME.size, len(data)
    while offset + head < end:
        magic, length, checksum, zero = unpack(data, offset)
        start = offset + head
        stop = start + length
        if (magic != ENTRY and magic != BATCH) or length < 2 or stop > end or zero:  # noqa: PLR1714 - twice as fast
            break
        if unchecked > 0:
            unchecked -= 1
        elif crc32(data[start:stop], offset) != checksum:
            break
        spans.append((start, stop))
        offset = stop
    return spans, offset


def is_blank(data: Bytes, offset: int) -> bool:
    return not data[offset:].strip(b"\0")


def read_header(data: Bytes) -> tuple[str, int, int]:
    """Origin and first index that a segment's header names, and the header's length. Raises Unproved."""
    if len(data) >= FRAME.size:
        magic, length, checksum, zero = FRAME.unpack_from(data, 0)
        text = data[FRAME.size : FRAME.size + length] if length < 1024 else b""
        if magic == HEADER and not zero and len(text) == length and crc32(text) == checksum:
            origin, _, first = text.decode().rpartition("/")
            return origin, int(first), FRAME.size + length
    raise Unproved("its header is damaged")


# Entries: docs/ledger.md, "Entries". Only as much of them as verification needs.

ADMITTED = b'{"decision":{"admitted":true,'
REFUSED = b'{"decision":{"admitted":false,'
OUTCOME = b'{"outcome":{'
_OF = b'"decision":"'


def decision_of(entry: bytes) -> tuple[str, int] | None:
    """The log and the index of the decision that an outcome is of."""
    start = entry.find(_OF)
    reference = entry[start + len(_OF) : entry.find(b'"', start + len(_OF))] if start >= 0 else b""
    origin, _, number = reference.decode("utf-8", "replace").rpartition("/")
    return (origin, int(number)) if origin and _is_number(number) else None


@dataclass
class Calls:
    """Which admitted decisions have no outcome yet, over the logs of one folder.

    `stray`, `opened` and `ends` are what `take` came upon: what should not be, and how logs begin and end.
    """

    open: dict[str, set[int]] = field(default_factory=dict)  # by log
    whole: set[str] = field(default_factory=set)
    decisions: int = 0
    refusals: int = 0
    outcomes: int = 0
    stray: list[str] = field(default_factory=list)
    opened: list[dict[str, Any]] = field(default_factory=list)
    ends: list[tuple[int, str]] = field(default_factory=list)

    def take(self, origin: str, first: int, entries: Iterable[bytes]) -> None:
        mine = self.open.setdefault(origin, set())
        self.whole.add(origin)
        for index, entry in enumerate(entries, first):
            if entry.startswith(ADMITTED):
                self.decisions += 1
                mine.add(index)
            elif entry.startswith(OUTCOME):
                self._outcome(origin, index, entry)
            elif entry.startswith(REFUSED):
                self.refusals += 1
            else:
                self._other(index, entry)

    def _outcome(self, origin: str, index: int, entry: bytes) -> None:
        self.outcomes += 1
        log, number = decision_of(entry) or ("", -1)
        try:
            self.open[log].remove(number)
        except KeyError:
            self.stray.append(f"entry {index} of {origin} is an outcome of `{log}/{number}`, which has none due")

    def _other(self, index: int, entry: bytes) -> None:
        try:
            told = json.loads(entry)
        except (ValueError, RecursionError):
            told = None
        kind, about = next(iter(told.items())) if isinstance(told, dict) and len(told) == 1 else ("", None)
        forms = (("open", list), ("previous", dict))
        if not isinstance(about, dict) or not all(isinstance(about.get(name, form()), form) for name, form in forms):
            self.stray.append(f"entry {index} is of no known kind")
        elif kind == "opened":
            self.opened.append(about)
            for reference in about.get("open", ()):
                log, _, number = str(reference).rpartition("/")
                if log not in self.whole and _is_number(number):  # nothing else is known here of that log
                    self.open.setdefault(log, set()).add(int(number))
        elif kind == "closed" and "next" in about:
            self.ends.append((index, str(about["next"])))


@dataclass
class Report:
    """What was found out about one log. It is proved when there are no `failures`."""

    name: str
    checkpoint: Checkpoint | None = None
    tree: Tree = field(default_factory=Tree)
    roots: dict[int, bytes] = field(default_factory=dict)
    opened: list[dict[str, Any]] = field(default_factory=list)
    ended: str | None = None
    failures: list[str] = field(default_factory=list)


class Verification:
    """Verifies the logs of a folder one after the other. `progress` is told how many bytes were read."""

    def __init__(self, key: Key, since: Sequence[Checkpoint] = (), progress: Progress | None = None) -> None:
        self._key = key
        self._since = since
        self._progress = progress or (lambda _: None)
        self.calls = Calls()
        self.reports: dict[str, Report] = {}
        self.failures: list[str] = []

    def check_folder(self, folder: Path) -> None:
        """Every log that the signed list names, and that there are no others."""
        names = {path.name: path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")}
        listed: list[Checkpoint | str] = []
        try:
            listed = read_list((folder / LIST).read_bytes(), self._key)
        except FileNotFoundError:
            self.failures.append(f"the signed list of logs (`{LIST}`) is missing")
        except Unproved as wrong:
            self.failures.append(f"the list of logs: {wrong}")
        for one in listed:
            origin = one if isinstance(one, str) else one.origin
            path = names.pop(folder_name(origin), None)
            if path is None:
                self.failures.append(f"the log `{origin}` is in the list, but it is missing")
                continue
            report = self.check_log(path)
            if isinstance(one, Checkpoint) and report.checkpoint not in (None, one):
                report.failures.append("it is not as the signed list says that it ended")
        for name in sorted(names):
            self.failures.append(f"the log `{name}` is not in the list of logs")
            self.check_log(names[name])
        self._check_order()

    def check_log(self, folder: Path) -> Report:
        report = Report(folder.name)
        self.reports[folder.name] = report
        try:
            signed = report.checkpoint = open_checkpoint((folder / CHECKPOINT).read_bytes(), self._key)
        except FileNotFoundError:
            report.failures.append("its checkpoint is missing: nothing in it is proved")
            return report
        except Unproved as wrong:
            report.failures.append(f"its checkpoint: {wrong}")
            return report
        if folder.name != folder_name(signed.origin):
            report.failures.append(f"its checkpoint is that of the log `{signed.origin}`")
            return report
        earlier = [one for one in self._since if one.origin == signed.origin]
        if earlier and (most := max(one.size for one in earlier)) > signed.size:
            report.failures.append(f"it was cut back: {signed.size} entries are signed, {most} were")
        wanted = [("the checkpoint", signed), *(("the earlier checkpoint", one) for one in earlier)]
        self._read(folder, report, sorted({checkpoint.size for _, checkpoint in wanted}))
        for what, (_, size, root) in wanted:
            if size > report.tree.size:
                report.failures.append(f"entries {report.tree.size} to {size - 1} are missing: {what} covers them")
            elif report.roots[size] != root:
                report.failures.append(
                    f"the first {size} entries do not have the root that {what} signs:"
                    " an entry was changed, replaced, added, removed or put in another order"
                )
        return report

    def _read(self, folder: Path, report: Report, wanted: Sequence[int]) -> None:
        """The entries, segment by segment, up to the first thing that is wrong."""
        for path in sorted(folder.iterdir()):
            if not (path.match(SEGMENT) or path.name in {CHECKPOINT, PRIVATE} or path.name.startswith(".")):
                report.failures.append(f"the file `{path.name}` does not belong there")
        for path in sorted(folder.glob(SEGMENT)):
            data = path.read_bytes()  # not mapped: a writer may cut the file meanwhile
            try:
                self._read_segment(path, data, report, wanted)
            except (Unproved, ValueError) as wrong:
                what = wrong if isinstance(wrong, Unproved) else "its header is damaged"
                report.failures.append(f"segment `{path.name}`: {what}")
                break
            self._progress(len(data))
        report.roots |= {size: report.tree.root() for size in wanted if size == report.tree.size}

    def _read_segment(self, path: Path, data: Bytes, report: Report, wanted: Sequence[int]) -> None:
        origin, first, offset = read_header(data)
        named = report.checkpoint.origin if report.checkpoint else ""
        if origin != named or segment_name(first) != path.name:
            raise Unproved(f"it holds entries from {first} on of the log `{origin}`: files were swapped or renamed")
        if first != report.tree.size:
            raise Unproved(f"it begins with entry {first}, but entry {report.tree.size} is next: a segment is missing")
        if report.ended:
            raise Unproved("it stands after the end of the log")
        spans, end = walk(data, offset)
        hashes = [sha256(data[start - 1 : stop]).digest() for start, stop in spans]
        at = 0
        for size in wanted:
            if report.tree.size <= size < first + len(spans):
                report.tree.extend(hashes[at : size - first])
                at = size - first
                report.roots[size] = report.tree.root()
        report.tree.extend(hashes[at:])
        calls = self.calls
        calls.stray, calls.opened, calls.ends = [], [], []
        calls.take(origin, first, (data[start:stop] for start, stop in spans))
        report.failures += calls.stray
        report.opened += calls.opened
        for index, following in calls.ends:
            report.ended = following
            if index != report.tree.size - 1:
                report.failures.append(f"it goes on after entry {index}, which ends it")
        if not is_blank(data, end):
            raise Unproved(f"entry {first + len(spans)}: it was changed, moved or cut short (at byte {end})")

    def _check_order(self) -> None:
        """Each log that continues another names its last checkpoint."""
        by_origin = {r.checkpoint.origin: r for r in self.reports.values() if r.checkpoint is not None}
        for origin, report in by_origin.items():
            previous = (report.opened[0].get("previous") if report.opened else None) or {}
            before = by_origin.get(str(previous.get("origin")))
            if previous and before is None:
                self.failures.append(f"the log `{previous.get('origin')}`, which `{origin}` continues, is missing")
            elif before is not None and before.checkpoint is not None:
                size, root = before.checkpoint.size, base64.b64encode(before.checkpoint.root).decode()
                if (previous.get("size"), previous.get("root")) != (size, root):
                    self.failures.append(f"the log `{origin}` continues another end of `{before.checkpoint.origin}`")
            if report.ended is not None and report.ended not in by_origin:
                self.failures.append(f"the log `{report.ended}`, which continues `{origin}`, is missing")

    def check_since(self) -> None:
        here = {report.checkpoint.origin for report in self.reports.values() if report.checkpoint is not None}
        for origin in sorted({one.origin for one in self._since} - here):
            self.failures.append(f"the log `{origin}` of the earlier checkpoint is not here")

    def open_calls(self) -> int:
        return sum(map(len, self.calls.open.values()))

    def findings(self) -> list[str]:
        """Everything that is not proved, or is wrong. Empty: all is proved."""
        return self.failures + [f"{r.name}: {failure}" for r in self.reports.values() for failure in r.failures]


def folder_name(origin: str) -> str:
    return origin.replace("/", "_")


def segment_name(first: int) -> str:
    return f"{first:08d}.entries"


def read_list(note: bytes, key: Key) -> list[Checkpoint | str]:
    lines = open_note(note, key).split("\n")
    logs: list[Checkpoint | str] = []
    for line in lines[1:-1]:
        origin, *end = line.split(" ")
        root = _unbase64(end[1]) if len(end) == 2 and _is_number(end[0]) else None
        if end and root is None:
            raise Unproved("it is malformed")
        logs.append(Checkpoint(origin, int(end[0]), root) if root is not None else origin)
    if lines[0] != LIST_TITLE:
        raise Unproved("it is malformed")
    return logs


def summary(ledger: Verification) -> Iterator[str]:
    """What was proved, in plain words."""
    calls = ledger.calls
    for report in ledger.reports.values():
        if report.checkpoint is not None and not report.failures:
            after = report.tree.size - report.checkpoint.size
            tail = f"; {after} more are not signed yet" if after else ""
            end = "" if report.ended is None else ", its end"
            yield f"{report.checkpoint.origin}: proved complete up to entry {report.checkpoint.size - 1}{end}{tail}"
    yield f"{calls.decisions} admitted calls, {calls.refusals} refused, {calls.outcomes} outcomes"
    if waiting := ledger.open_calls():
        yield f"{waiting} admitted calls have no outcome yet (in progress, or the process ended; not a failure)"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Verify an Entrepot receipt or log, offline.")
    commands = parser.add_subparsers(dest="command", required=True)
    for command, operand in (("receipt", "FILE"), ("log", "DIR")):
        one = commands.add_parser(command)
        one.add_argument("path", metavar=operand, type=Path)
        one.add_argument("--key", required=True, metavar="VKEY", help="verifier key, or a file that holds it")
    commands.choices["log"].add_argument("--since", metavar="CHECKPOINT", type=Path, help="an earlier checkpoint")
    given = parser.parse_args(arguments)
    try:
        key = find_key(given.key)
    except (Unproved, OSError, ValueError) as wrong:
        parser.error(f"argument --key: {wrong}")
    try:
        if given.command == "receipt":
            lines, failed = prove_receipt(given.path, key), False
        else:
            ledger = check(given.path, key, given.since)
            failed = bool(ledger.findings())
            lines = [*summary(ledger), *(f"NOT PROVED: {finding}" for finding in ledger.findings())]
    except (Unproved, OSError) as wrong:
        lines, failed = [f"NOT PROVED: {wrong}"], True
    print("\n".join(lines))  # noqa: T201 - a program of its own
    return int(failed)


def find_key(given: str) -> Key:
    """A verifier key, or the one in a file."""
    return read_key(given if "+" in given and not Path(given).exists() else Path(given).read_text(encoding="utf-8"))


def prove_receipt(path: Path, key: Key) -> list[str]:
    receipt = open_receipt(path.read_bytes(), key)
    signed = receipt.checkpoint
    proved = f"entry {receipt.number} is in the log {signed.origin}, signed by {key.name} at {signed.size} entries"
    return [f"proved: {proved}", receipt.entry.decode("utf-8", "replace")]


def check(folder: Path, key: Key, since: Path | None = None, progress: Progress | None = None) -> Verification:
    """Verify a folder of logs, or one log."""
    ledger = Verification(key, open_checkpoints(since.read_bytes(), key) if since else (), progress)
    one_log = (folder / CHECKPOINT).exists() or any(folder.glob(SEGMENT))
    (ledger.check_log if one_log else ledger.check_folder)(folder)
    ledger.check_since()
    return ledger


if __name__ == "__main__":
    sys.exit(main())
