"""Ledgers to test with: entries of every kind, writers over a file layer that fails when it is told to."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import msgspec

from entrepot.ledger import entries as e
from entrepot.ledger.commitments import commit
from entrepot.ledger.files import Files
from entrepot.ledger.flushes import Flushes
from entrepot.ledger.keys import find_signer
from entrepot.ledger.log import Batch
from entrepot.ledger.read import entries_of, folders_of, personal_of
from entrepot.ledger.verify import Key, Verification, check
from entrepot.ledger.writer import Writer, open_writer

NAME = "entrepot.example/gateway-1"
NOW_MS = 1_795_000_000_000  # 2026-11-18
LOG = "entrepot.example_gateway-1_2026-11_0"
ORIGIN = LOG.replace("_", "/")


def decision(
    number: int, *, admitted: bool = True, account: str = "kanto", user: str | None = None
) -> tuple[bytes, bytes]:
    """A decision entry, and its salt and personal data."""
    salted, commitment = commit(
        e.Personal(f"203.0.113.{number % 256}", f"{account}/key1", user if user is not None else msgspec.UNSET)
    )
    facts = msgspec.Raw(msgspec.json.encode(e.facts({"target.provider": "openai", "target.zone": ["eu", "apac"]})))
    made = e.Decision(
        admitted=admitted,
        at_ms=NOW_MS + number,
        candidates=[e.raw(e.Candidate(facts, admitted, ("BASE-01",) if admitted else ("TERR-01",), "main"))],
        client=e.raw(e.Client(account, e.facts({"org.territory": "JP"}), "org", (e.Owner("0", territory="JP"),))),
        code=msgspec.UNSET if admitted else "unsupported_territory",
        commitment=commitment,
        deployment=e.raw(e.Deployment("gpt-4o", "gpt", "2024-08-06")),
        operation="chat",
        origin=e.raw(e.Origin(False, "iptocc-3", "isp", "iptocc", "JP")),
        release="sha256:" + "0" * 64,
        request=f"guid-{number}",
        revision=1,
    )
    return e.encode(made), salted


def outcome(reference: str, number: int = 0) -> bytes:
    usage = e.Usage(0, 20, 10, 0, "reported")
    return e.encode(
        e.Outcome(NOW_MS + number, reference, legs=(e.Leg(5, "answered", "main"),), status=200, usage=usage)
    )


def decisions(first: int, count: int) -> Batch:
    made = [decision(number) for number in range(first, first + count)]
    return Batch([entry for entry, _ in made], [private for _, private in made])


def small(first: int, count: int) -> Batch:
    """Decisions of forty bytes, where every byte of a log is to be tried."""
    made = [b'{"decision":{"admitted":true,"at_ms":%d}}' % number for number in range(first, first + count)]
    return Batch(made, [b"s" * 16 + b"{}"] * count)


def write(data: Path, files: Files | None = None, clock: Callable[[], int] = lambda: NOW_MS) -> Writer:
    files = files or Files()
    return open_writer(data, NAME, find_signer(data, NAME, files), files, clock)


def some_log(
    data: Path, batches: Sequence[int], make: Callable[[int, int], Batch] = decisions, *, close: bool = True
) -> list[bytes]:
    """A log of so many decisions a batch; what it holds."""
    writer = write(data)
    held: list[bytes] = []
    for size in batches:
        batch = make(len(held), size)
        writer.append(batch)
        held += batch.entries
    if close:
        writer.close()
    else:
        writer.abandon()
    return held


def key_of(data: Path) -> Key:
    return find_signer(data, NAME, Files()).key


def verified(data: Path) -> Verification:
    return check(data / "ledger", key_of(data))


def findings(data: Path) -> list[str]:
    return verified(data).findings()


@dataclass
class Fault:
    """What goes wrong at the `at`th write-changing operation: `how` is one of HOWS."""

    at: int
    how: str


class Pretended(Flushes):
    """Flushes by the file layer that they belong to, before `begin` returns: what it does wrong goes wrong here too."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._failure: OSError | None = None

    def begin(self, fds: Sequence[int]) -> None:
        self._failure = None
        try:
            self._files.sync_all(fds)
        except OSError as failure:
            self._failure = failure
        os.eventfd_write(self._event_fd, 1)

    def ended(self) -> bool:
        os.eventfd_read(self._event_fd)
        if self._failure is not None:
            raise self._failure
        return True

    def close(self) -> None:
        if self._loop is not None:
            self._loop.remove_reader(self._event_fd)
        os.close(self._event_fd)


HOWS = ("fails", "persists", "tears")
"""Nothing happens and it fails; all of it happens and it fails all the same; half of it happens and it fails."""


@dataclass
class Faulty(Files):
    """Counts operations, and makes the chosen one fail, or all from it on until `heal`. `done` names them."""

    fault: Fault | None = None
    lasting: bool = False
    done: list[str] = field(default_factory=list)
    _unsynced: dict[int, tuple[int, bytes]] = field(default_factory=dict)

    def heal(self) -> None:
        self.fault = None

    def _fails(self, what: str) -> str | None:
        number = len(self.done)
        self.done.append(what)
        if self.fault is None or number < self.fault.at or (number > self.fault.at and not self.lasting):
            return None
        return self.fault.how

    def aside(self, work: Callable[[], None]) -> None:
        work()

    def flushes(self) -> Flushes | None:
        return Pretended(self)

    def _raise(self) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def write(self, fd: int, data: bytes, offset: int) -> None:
        how = self._fails("write")
        if how != "fails":
            stop = len(data) // 2 if how == "tears" else len(data)
            if data.count(0) == len(data):  # room made ahead: a hole is quicker
                os.ftruncate(fd, offset + stop)
            else:
                self._unsynced[fd] = offset, os.pread(fd, len(data), offset)
                super().write(fd, data[:stop], offset)
        if how is not None:
            self._raise()

    def sync(self, fd: int) -> None:
        """Where it fails, the last write before it is undone, wholly or by half, or has happened after all."""
        how = self._fails("sync")
        offset, before = self._unsynced.pop(fd, (0, b""))
        if how in {"fails", "tears"}:
            kept = len(before) // 2 if how == "tears" else 0
            os.pwrite(fd, before[kept:], offset + kept)
        if how is not None:
            self._raise()

    def cut(self, fd: int, length: int) -> None:
        how = self._fails("cut")
        if how != "fails":
            super().cut(fd, length)
        if how is not None:
            self._raise()

    def rename(self, path: Path, to: Path) -> None:
        how = self._fails("rename")
        if how not in {"fails", "tears"}:
            path.rename(to)
        if how is not None:
            self._raise()


@dataclass
class Small(Files):
    """A disk of so many bytes: writing into holes and beyond ends takes room, which removing gives back."""

    folder: Path = Path()
    room: int = 0

    def _take(self, fd: int, end: int) -> None:
        grows = end - os.fstat(fd).st_size
        if grows > 0 and self._used() + grows > self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _used(self) -> int:
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def write(self, fd: int, data: bytes, offset: int) -> None:
        self._take(fd, offset + len(data))
        super().write(fd, data, offset)

    def sync(self, fd: int) -> None:
        pass

    def aside(self, work: Callable[[], None]) -> None:
        work()

    def flushes(self) -> Flushes | None:
        return Pretended(self)


class Crash(BaseException):
    """The power is gone."""


class Volatile(Files):
    """Loses power at the `at`th operation: of what was not synced, some blocks reach the disk and some do not."""

    def __init__(self, at: int, random: Random) -> None:
        self.at = at
        self.count = 0
        self._random = random
        self._before: dict[Path, bytes] = {}

    def aside(self, work: Callable[[], None]) -> None:
        work()

    def sync_all(self, fds: Sequence[int]) -> None:
        super().sync_all(self._random.sample(fds, len(fds)))

    def _step(self) -> None:
        self.count += 1
        if self.count == self.at:
            self._lose()
            raise Crash

    def _lose(self) -> None:
        for path, before in self._before.items():
            if not path.exists():
                continue
            now = path.read_bytes()
            blocks = range(0, max(len(now), len(before)), 512)
            kept = b"".join((now if self._random.random() < 0.5 else before)[at : at + 512] for at in blocks)
            path.write_bytes(kept)
        self._before = {}

    def _remember(self, fd: int) -> Path:
        path = Path(f"/proc/self/fd/{fd}").readlink()
        if path not in self._before:
            self._before[path] = path.read_bytes()
        return path

    def write(self, fd: int, data: bytes, offset: int) -> None:
        self._remember(fd)
        super().write(fd, data, offset)
        self._step()

    def sync(self, fd: int) -> None:
        self._before.pop(Path(f"/proc/self/fd/{fd}").readlink(), None)
        self._step()

    def cut(self, fd: int, length: int) -> None:
        self._remember(fd)
        super().cut(fd, length)
        self._step()

    def rename(self, path: Path, to: Path) -> None:
        assert path not in self._before, "a file gets its name before what is in it is durable"
        path.rename(to)
        self._step()


class Stale(Files):
    """Over files of which the kernel's memory shows more than the disk has, which is `held`, after a failed sync.

    Its pages count as clean, so only what is written from now on can reach the disk.
    """

    def __init__(self, held: dict[Path, bytes]) -> None:
        super().__init__()
        self._held = {path: bytearray(data) for path, data in held.items()}
        self._written: dict[Path, list[tuple[int, bytes]]] = {}

    def aside(self, work: Callable[[], None]) -> None:
        work()

    def flushes(self) -> Flushes | None:
        return Pretended(self)

    def write(self, fd: int, data: bytes, offset: int) -> None:
        super().write(fd, data, offset)
        self._written.setdefault(Path(f"/proc/self/fd/{fd}").readlink(), []).append((offset, bytes(data)))

    def sync(self, fd: int) -> None:
        path = Path(f"/proc/self/fd/{fd}").readlink()
        for offset, data in self._written.pop(path, []):
            if path in self._held:
                held = self._held[path]
                held.extend(bytes(max(0, offset - len(held))))
                held[offset : offset + len(data)] = data

    def rename(self, path: Path, to: Path) -> None:
        super().rename(path, to)
        self._held.pop(to, None)  # a new file: all of it was written and synced

    def power_off(self) -> None:
        for path, held in self._held.items():
            path.write_bytes(held)


def undisclosed(data: Path) -> tuple[set[tuple[str, int]], set[tuple[str, int]]]:
    """Entries whose personal data is missing, and those that `opened` entries say it of."""
    missing, named = set(), set()
    for log in folders_of(data / "ledger"):
        there = personal_of(log)
        for read in entries_of(log):
            entry = e.decode(read.entry)
            if isinstance(entry, e.Decision) and read.number not in there:
                missing.add((read.origin, read.number))
            if isinstance(entry, e.Opened) and entry.undisclosed is not msgspec.UNSET:
                named |= {(read.origin, number) for number in entry.undisclosed}
    return missing, named
