"""Erases personal data: writes down that it is erased, then overwrites salt and value in the side files.

Gateways may run meanwhile. The entry goes to a log of its own, for each writing process has one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from entrepot.clock import wall_clock_ms
from entrepot.ledger.entries import Decision, Erased, Erasure, Personal, Refusals, decode, disclose, encode, plain
from entrepot.ledger.files import Files
from entrepot.ledger.frames import RECORD, Record, private_file, records, settled
from entrepot.ledger.keys import find_signer
from entrepot.ledger.log import Batch
from entrepot.ledger.read import all_folders_of, entries_of, segments_of
from entrepot.ledger.verify import SEGMENT, read_header
from entrepot.ledger.writer import open_writer

# Account, arrival in ms, personal data → whether it goes.
Choice = Callable[[str, int, Personal], bool]


class Plan(NamedTuple):
    """What is to be overwritten, by side file, and what the entry says."""

    records: dict[Path, list[Record]]
    logs: tuple[Erased, ...]


def plan(ledger: Path, choose: Choice) -> Plan:
    """Reads all side files and the entries beside them."""
    chosen: dict[Path, list[Record]] = {}
    logs: list[Erased] = []
    for log in all_folders_of(ledger):
        indices: list[int] = []
        for first, _ in segments_of(log):
            path = private_file(log, first)
            there = {r.number: r for r in records(path.read_bytes()) if r.private} if path.exists() else {}
            for read in entries_of(log, first) if there else ():
                record = there.pop(read.number, None)
                if record is not None and record.private is not None and _goes(read.entry, record.private, choose):
                    chosen.setdefault(path, []).append(record)
                    indices.append(read.number)
                if not there:
                    break
        if indices:
            begin = min(log.glob(SEGMENT))
            logs.append(Erased(ranges(indices), read_header(begin.read_bytes())[0]))
    return Plan(chosen, tuple(logs))


def erase(data: Path, key_name: str, choose: Choice, basis: str, files: Files | None = None) -> int:
    """How many entries' personal data was erased. Raises LedgerRefused, or OSError: run it again then."""
    files = files or Files()
    signer = find_signer(data, key_name, files)
    planned = plan(data / "ledger", choose)
    count = sum(map(len, planned.records.values()))
    if not count:
        return 0
    # The entry comes first: data that is gone without a word would look like a loss. A crash after it leaves data that
    # the next run finds and erases, with an entry of its own.
    writer = open_writer(data, f"{key_name}/erasure", signer, files)
    try:
        told = Erasure(wall_clock_ms(), basis, count, planned.logs)
        writer.append(Batch([encode(told)], [None]))
        for path, chosen in planned.records.items():
            with settled(path.parent):
                overwrite(files, path, chosen)
    finally:
        writer.close()
    return count


def overwrite(files: Files, path: Path, chosen: list[Record]) -> None:
    """Zeros for salt and value, then a checksum that fits them. Durable on return."""
    fd = files.open(path)
    try:
        for record in chosen:
            length = record.stop - record.start - RECORD.size
            files.write(fd, bytes(length), record.start + RECORD.size)
            files.write(fd, RECORD.pack(length, crc32(bytes(length), record.start), record.number), record.start)
        files.sync(fd)
    finally:
        files.close(fd)


def ranges(indices: list[int]) -> tuple[tuple[int, int], ...]:
    """Half-open ranges over sorted indices."""
    found: list[tuple[int, int]] = []
    for index in indices:
        if found and found[-1][1] == index:
            found[-1] = (found[-1][0], index + 1)
        else:
            found.append((index, index + 1))
    return tuple(found)


def _goes(entry: bytes, private: bytes, choose: Choice) -> bool:
    told = decode(entry)
    if isinstance(told, Decision):
        return choose(str(plain(told.client).get("account")), told.at_ms, disclose(private))
    return isinstance(told, Refusals) and choose(told.account, told.at_ms, disclose(private))
