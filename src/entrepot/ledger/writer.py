"""The logs of one writing process, one after the other: opened, rotated, listed. Synchronous, for one thread.

The order of rotation: the old log's `closed` entry and last checkpoint, the new log's folder, the list. Each step is
durable before the next, and `open_writer` goes on from any of them.
"""

from __future__ import annotations

import base64
import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from msgspec import UNSET, UnsetType

from entrepot import __version__
from entrepot.clock import wall_clock_ms
from entrepot.ledger import entries
from entrepot.ledger.faults import LedgerRefused
from entrepot.ledger.files import Files
from entrepot.ledger.flushes import Flushes
from entrepot.ledger.frames import framed, header, private_file
from entrepot.ledger.keys import Signer
from entrepot.ledger.log import Batch, Log, Places, Put
from entrepot.ledger.note import write_list
from entrepot.ledger.read import entries_of
from entrepot.ledger.recover import WHAT_NOW, recover
from entrepot.ledger.verify import (
    CHECKPOINT,
    LIST,
    PRIVATE,
    Checkpoint,
    Tree,
    Unproved,
    folder_name,
    leaf_hash,
    read_list,
    segment_name,
)

LONGEST = 1_000_000
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*(/[A-Za-z0-9][A-Za-z0-9.-]*)*")


class Writer:
    """Appends to the current log and begins the next one when it is due. Made by `open_writer`."""

    def __init__(
        self, places: Places, name: str, signer: Signer, files: Files, lock: int, clock_ms: Callable[[], int]
    ) -> None:
        self._places = places
        self._name = name
        self._signer = signer
        self._files = files
        self._lock = lock
        self._clock_ms = clock_ms
        self._due_ms = 0
        self._log: Log | None = None
        self.longest = LONGEST

    @property
    def log(self) -> Log:
        """The current one."""
        if self._log is None:
            raise RuntimeError("the writer is closed")
        return self._log

    def append(self, batch: Batch) -> tuple[str, int]:
        """The log and the index of the first entry, all durable on return. Raises OSError; then none was appended."""
        current = self.log
        if current.ended is None and self._is_due(current):
            self._end(current)
        if current.ended is not None:
            current = self._go_on(current)
        return current.origin, current.append(batch)

    def begin_append(self, batch: Batch, flushes: Flushes) -> Put | None:
        """As `append`, without waiting: durable after `end_append`. None where it takes longer; `append` it then."""
        current = self.log
        return None if self._is_due(current) else current.begin_append(batch, flushes)

    def end_append(self, put: Put, failure: OSError | None) -> tuple[str, int]:
        """What `begin_append` began. Raises the failure; then none was appended."""
        return self.log.origin, self.log.end_append(put, failure)

    def close(self) -> None:
        """The last entry, the last checkpoint. Raises OSError; what was acknowledged is durable all the same."""
        current = self.log
        self._log = None
        try:
            if current.ended is None:
                current.append(Batch([entries.encode(entries.Closed(self._clock_ms()))], [None]))
            current.checkpoint()
        finally:
            try:
                current.close()
            finally:
                self._unlock()

    def adopt(self, current: Log) -> None:
        self._log = current
        self._due_ms = end_of_month_ms(current.origin)

    def start(self, current: Log) -> None:
        """Go on with a log that exists. A decision that has no outcome gets one: the process that knew it is gone."""
        self.adopt(current)
        if current.ended is not None:
            current = self._go_on(current)
        now_ms = self._clock_ms()
        undisclosed = tuple(current.undisclosed) or UNSET
        opened = entries.Opened(at_ms=now_ms, program=program(), undisclosed=undisclosed)
        added = [entries.encode(opened), *map(entries.encode, lost_calls(self._places, current, now_ms))]
        current.append(Batch(added, [None] * len(added)))
        current.checkpoint()

    def begin(self) -> None:
        """The first log of this name."""
        self.adopt(self._create(self._next_origin(), UNSET, ()))
        self.enlist()

    def enlist(self) -> None:
        """Name the current log in the list, where a crash came before that."""
        self._enlist(self.log.origin, None)

    def abandon(self) -> None:
        """Let go of the files without writing anything."""
        current, self._log = self._log, None
        if current is not None:
            current.abandon()
        self._unlock()

    def _is_due(self, current: Log) -> bool:
        """To end, or to be gone on from."""
        return current.ended is not None or current.size >= self.longest or self._clock_ms() >= self._due_ms

    def _unlock(self) -> None:
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def _end(self, current: Log) -> None:
        closed = entries.Closed(self._clock_ms(), self._next_origin())
        current.append(Batch([entries.encode(closed)], [None]))

    def _go_on(self, current: Log) -> Log:
        """The log that continues one that has ended. Can be tried again when it fails half-way."""
        assert current.ended is not None
        current.checkpoint()
        final = current.signed
        folder = self._places.log(current.ended)
        if folder.exists():  # an attempt before got as far as this
            following = recover(self._files, self._places, self._signer, current.ended)
        else:
            root = base64.b64encode(final.root).decode()
            previous = entries.Previous(final.origin, root, final.size)
            following = self._create(current.ended, previous, references(current))
        self._enlist(following.origin, final)
        current.close()
        self.adopt(following)
        return following

    def _create(self, origin: str, previous: entries.Previous | UnsetType, open_calls: Iterable[str]) -> Log:
        """A log with its first entry and its checkpoint. Its folder appears as a whole or not at all."""
        opened = entries.encode(
            entries.Opened(
                at_ms=self._clock_ms(), open=tuple(open_calls) or UNSET, previous=previous, program=program()
            )
        )
        folder = self._places.log(origin)
        beside = folder.with_name(f".new-{folder.name}")
        shutil.rmtree(beside, ignore_errors=True)
        (beside / PRIVATE).mkdir(parents=True, mode=0o750)
        (beside / PRIVATE).chmod(0o700)
        head = header(origin, 0)
        data, _ = framed([opened], len(head))
        tree = Tree()
        tree.extend([leaf_hash(opened)])
        self._files.replace(private_file(beside, 0), b"")
        self._files.replace(beside / segment_name(0), head + data)
        self._files.replace(beside / CHECKPOINT, self._signer.sign(str(Checkpoint(origin, 1, tree.root()))))
        # Everything in it is durable before it gets its name, so that a log that exists always has a checkpoint.
        self._files.rename(beside, folder)
        return recover(self._files, self._places, self._signer, origin)

    def _enlist(self, origin: str, ended: Checkpoint | None) -> None:
        """The list names a log before anything is acknowledged in it, so that it cannot be removed without a trace."""
        with locked(self._places.ledger / ".logs.lock"):
            listed = read_logs(self._places, self._signer, self._files)
            logs = [ended if ended is not None and origin_of(one) == ended.origin else one for one in listed]
            if origin not in map(origin_of, logs):
                logs.append(origin)
            if logs != listed:
                self._files.replace(self._places.ledger / LIST, self._signer.sign(write_list(logs)))

    def _next_origin(self) -> str:
        known = own_logs(self._places, self._name)
        month = datetime.fromtimestamp(self._clock_ms() / 1000, UTC).strftime("%Y-%m")
        number = 0
        while f"{self._name}/{month}/{number}" in known:
            number += 1
        return f"{self._name}/{month}/{number}"


def open_writer(
    data: Path, name: str, signer: Signer, files: Files, clock_ms: Callable[[], int] = wall_clock_ms
) -> Writer:
    """Go on where the last process of this name stopped, or begin its first log. Raises LedgerRefused, or OSError.

    `name` is the origin's part before month and number; it is the signer's name or below it.
    """
    if not NAME.fullmatch(name) or not f"{name}/".startswith(f"{signer.key.name}/"):
        raise LedgerRefused(f"`{name}` is no name of a log: letters, digits, `.` and `-`, in parts divided by `/`")
    places = Places(data)
    places.ledger.mkdir(parents=True, exist_ok=True)
    writer = Writer(places, name, signer, files, lock_writer(places, name), clock_ms)
    try:
        with locked(places.ledger / ".logs.lock"):
            listed = [origin_of(one) for one in read_logs(places, signer, files)]
        latest = latest_log([one for one in listed if is_own(one, name)], own_logs(places, name))
        if latest is None:
            writer.begin()
        else:
            writer.start(recover(files, places, signer, latest))
            writer.enlist()
    except BaseException:
        writer.abandon()
        raise
    return writer


def latest_log(listed: list[str], there: list[str]) -> str | None:
    """The log to go on with; None for the first start. Raises LedgerRefused when one is missing."""
    for origin in listed:
        if origin not in there:
            raise LedgerRefused(f"the log `{origin}` is in the signed list of logs, but it is missing; {WHAT_NOW}")
    unlisted = [origin for origin in there if origin not in listed]
    if len(unlisted) > 1:
        raise LedgerRefused(f"the logs {', '.join(unlisted)} are not in the signed list of logs; {WHAT_NOW}")
    # A crash can come between a log's folder and the list. With others before it, the last of them leads to it.
    return listed[-1] if listed else next(iter(unlisted), None)


def read_logs(places: Places, signer: Signer, files: Files) -> list[Checkpoint | str]:
    """The signed list, begun where there is nothing yet."""
    path = places.ledger / LIST
    try:
        return read_list(path.read_bytes(), signer.key)
    except FileNotFoundError:
        if any(each.is_dir() for each in places.ledger.glob("[!.]*")):
            raise LedgerRefused(f"the signed list of logs `{path}` is missing; {WHAT_NOW}") from None
        # The list exists before the first log, so that it cannot be removed without a trace either.
        files.replace(path, signer.sign(write_list([])))
        return []
    except Unproved as wrong:
        raise LedgerRefused(f"the signed list of logs `{path}`: {wrong}; {WHAT_NOW}") from wrong


def own_logs(places: Places, name: str) -> list[str]:
    """Those of this writer that have a folder."""
    origins = (path.name.replace("_", "/") for path in places.ledger.glob("[!.]*") if path.is_dir())
    return [origin for origin in origins if is_own(origin, name)]


def is_own(origin: str, name: str) -> bool:
    return origin.startswith(f"{name}/") and origin.count("/") == name.count("/") + 2


def origin_of(listed: Checkpoint | str) -> str:
    return listed if isinstance(listed, str) else listed.origin


def references(current: Log) -> list[str]:
    """The admitted decisions without an outcome, as `origin/index`."""
    return [f"{origin}/{index}" for origin, waiting in current.open.items() for index in sorted(waiting)]


def lost_calls(places: Places, current: Log, now_ms: int) -> Iterator[entries.Outcome]:
    """Outcomes for the decisions that have none. What they had reserved of budgets counts as used."""
    for origin, waiting in current.open.items():
        reserved = reserved_by(places.log(origin), waiting) if waiting else {}
        for index in sorted(waiting):
            usage = reserved.get(index, UNSET)
            yield entries.Outcome(now_ms, f"{origin}/{index}", result="lost", usage=usage)


def reserved_by(folder: Path, indices: set[int]) -> dict[int, entries.Usage]:
    """The usage that these decisions of a log were estimated to have, where they say so."""
    found = {}
    with suppress(FileNotFoundError, Unproved):  # what a log says that was damaged or taken away counts as nothing
        for read in entries_of(folder, min(indices)):
            if read.number in indices and b',"reserved":{' in read.entry:
                told = entries.decode(read.entry)
                if isinstance(told, entries.Decision) and told.reserved is not UNSET:
                    found[read.number] = entries.Usage(
                        0, told.reserved.completion, told.reserved.prompt, 0, "estimated"
                    )
    return found


def end_of_month_ms(origin: str) -> int:
    """When a log is due to end: the first instant of the month after its own."""
    year, month = map(int, origin.split("/")[-2].split("-"))
    return int(datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC).timestamp() * 1000)


def program() -> str:
    return f"entrepot {__version__}"


def lock_writer(places: Places, name: str) -> int:
    """Held until the process ends, however it ends. Raises LedgerRefused when another process holds it."""
    path = places.ledger / f".{folder_name(name)}.lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise LedgerRefused(
            f"a process already writes the log `{name}` in `{places.ledger}`; end it, or choose another data folder"
        ) from None
    return fd


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Waits for its turn; for steps of a few milliseconds."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
