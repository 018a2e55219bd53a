"""The ledger as an event loop uses it: entries in, durable or refused.

Adaptive group commit: a decision starts a write at once if none is under way; what comes meanwhile makes up the next.
The loop writes into room that was made ahead, and the kernel makes it durable beside it. Whatever takes longer is done
by another thread: new segments and logs, trials after a failure, and all of it where the kernel offers no such flushes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from typing import final

from entrepot.clock import wall_clock_ms
from entrepot.http1.run import Wait
from entrepot.ledger.entries import Degraded, Outcome, encode
from entrepot.ledger.faults import LedgerUnavailable
from entrepot.ledger.files import Files
from entrepot.ledger.flushes import Flushes
from entrepot.ledger.keys import find_signer
from entrepot.ledger.log import Batch, Places, Put
from entrepot.ledger.receipt import receipt_of
from entrepot.ledger.verify import ADMITTED, OUTCOME
from entrepot.ledger.writer import Writer, open_writer

CHECKPOINT_S = 1.0
OUTCOME_S = 0.05
# With several callers at once a write waits this long after the one before began, so that more share its cost; but not
# when more calls wait for it than are under way behind it: then there is nobody left to wait for.
PACE_S = 0.005
CROWD = 4
RETRY_S = 0.2
# Where a batch took so long to be durable, or merely to be written, the thread writes for a while, and for longer where
# that happens soon again: on such a disk writing may have to wait, and the loop must not.
SLOW_S = 0.1
STUCK_S = 0.005
CAREFUL_S = 1.0
CAREFUL_MOST_S = 30.0

log = logging.getLogger(__name__)


@final
class Place:
    """Where a decision stands. `text` is the call's receipt header and what its outcome refers to."""

    __slots__ = ("number", "origin", "text")

    def __init__(self, origin: str, number: int) -> None:
        self.origin = origin
        self.number = number
        self.text = f"{origin}/{number}"

    def __str__(self) -> str:
        return self.text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Place) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)


Mark = asyncio.Future[Place]


class _Waiter:
    """One who waits for a decision to be durable. Woken when `place` or `problem` is set, unless he has `gone`."""

    __slots__ = ("gone", "place", "problem", "wait")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.wait = Wait(loop)
        self.place: Place | None = None
        self.problem: str | None = None
        self.gone = False


class _Pending:
    """What waits for the next write."""

    __slots__ = ("entries", "marks", "privates", "waiters")

    def __init__(self) -> None:
        self.entries: list[bytes] = []
        self.privates: list[bytes | None] = []
        self.waiters: list[_Waiter | None] = []
        self.marks: list[tuple[int, Mark]] = []
        """Each behind so many of the entries."""

    def add(self, entry: bytes, private: bytes | None, waiter: _Waiter | None) -> None:
        self.entries.append(entry)
        self.privates.append(private)
        self.waiters.append(waiter)


class Ledger:
    """One writing process: one per worker. Made by `open`; after `start` it belongs to the running loop."""

    def __init__(self, writer: Writer, data: Path, files: Files, clock_ms: Callable[[], int]) -> None:
        self.problem: str | None = None
        self.signs = True
        """Checkpoints can be written: else entries are durable, and no receipt of theirs can be had."""
        self._writer = writer
        self._files = files
        self._places = Places(data)
        self._clock_ms = clock_ms
        self._pending = _Pending()
        self._under_pen: _Pending | None = None
        """The batch that is being written."""
        self._put: Put | None = None
        """The same as it was written by the loop, if it was."""
        self._flushes: Flushes | None = None
        self._jobs: SimpleQueue[_Pending | None] = SimpleQueue()
        self._writer_thread = threading.Thread(target=self._write, name="ledger", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._signing: asyncio.Task[None] | None = None
        self._writing = False  # a batch is being written
        self._called = False  # `_send` is due in this turn of the loop
        self._timed = False  # a timer will send what waits
        self._overdue = False  # the timer went off while a batch was being written
        self._paced: asyncio.TimerHandle | None = None  # `_send` is due when the pace allows it
        self._sent_s = 0.0
        self._careful_until_s = 0.0
        self._careful_s = CAREFUL_S
        self._waiting = 0  # decisions that wait for the next write
        self._under_way = 0  # admitted calls that have no outcome yet
        self._since_ms = 0
        self._refused = 0
        self._idle = asyncio.Event()

    @classmethod
    def open(
        cls,
        data: Path,
        *,
        key_name: str,
        name: str | None = None,
        files: Files | None = None,
        clock_ms: Callable[[], int] = wall_clock_ms,
    ) -> Ledger:
        """Recover what the last process left and go on there. Blocks; raises LedgerRefused, or OSError.

        `key_name` is the gateway's, for its signing key; `name` that of this process's logs, the same or below it.
        """
        files = files or Files()
        signer = find_signer(data, key_name, files)
        return cls(open_writer(data, name or key_name, signer, files, clock_ms), data, files, clock_ms)

    def start(self) -> None:
        """Take entries, sign a checkpoint each second when the log grew. Call it in the loop."""
        self._loop = asyncio.get_running_loop()
        self._writer_thread.start()
        self._flushes = self._files.flushes()
        if self._flushes is not None:
            self._flushes.watch(self._loop, self._flushed)
        self._signing = self._loop.create_task(self._sign())

    @property
    def origin(self) -> str:
        """Of the current log."""
        return self._writer.log.origin

    @property
    def available(self) -> bool:
        return self.problem is None

    async def decide(self, entry: bytes, private: bytes | None) -> Place:
        """Append a decision; returns when it and its personal data (`entries.commit`) are durable.

        Raises LedgerUnavailable when it cannot be written: the call must then not be served. When the caller is
        cancelled meanwhile, an admitted decision that still becomes durable gets its outcome, `client_gone`, from here.
        """
        if self.problem is not None:
            self._refused += 1
            raise LedgerUnavailable(self.problem)
        loop = self._loop
        assert loop is not None, "the ledger is not started"
        waiter = _Waiter(loop)
        self._pending.add(entry, private, waiter)
        self._waiting += 1
        if not self._writing and (not self._called if self._paced is None else self._waiting > self._under_way):
            self._soon()
        try:
            await waiter.wait
        except asyncio.CancelledError:
            waiter.gone = True
            if waiter.place is not None:
                self._nobody_waits(entry, waiter.place)
            raise
        if waiter.place is None:
            raise LedgerUnavailable(waiter.problem)
        return waiter.place

    async def append(self, entry: bytes) -> Place:
        """Append an entry that somebody waits for and that has no outcome: durable on return.

        Raises LedgerUnavailable. When the caller is cancelled meanwhile, the entry may become durable all the same.
        """
        return await self.decide(entry, None)

    def outcome(self, entry: bytes, private: bytes | None = None) -> None:
        """Append an outcome, or any entry that nobody waits for: it goes with the next write, or within 50 ms.

        Never lost while the process lives: what cannot be written now is kept until it can be.
        """
        self._pending.add(entry, private, None)
        if entry.startswith(OUTCOME):
            self._under_way -= 1
        if not (self._timed or self._writing or self._called):
            self._time()

    def mark(self) -> Mark:
        """Where the first entry behind all that was given so far will stand, once all of that is durable.

        It is taken at once, whenever it is awaited. Raises LedgerUnavailable, also by the future.
        """
        if self.problem is not None:
            raise LedgerUnavailable(self.problem)
        assert self._loop is not None, "the ledger is not started"
        mark: Mark = self._loop.create_future()
        if self._pending.entries:
            self._pending.marks.append((len(self._pending.entries), mark))
        elif self._under_pen is not None:
            self._under_pen.marks.append((len(self._under_pen.entries), mark))
        else:
            mark.set_result(Place(self.origin, self._writer.log.size))
        return mark

    async def close(self) -> None:
        """Write what waits, the `closed` entry and the last checkpoint. Nothing may be given to it any more.

        A disk that fails to the end is logged: what was acknowledged is durable, and the next start does the rest.
        """
        if self._signing is not None:
            self._signing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._signing
        if self._loop is None:
            self._writer.close()
            return
        while self._writing or (self._pending.entries and self.available):
            self._idle.clear()
            self._send()
            await self._idle.wait()
        if self._flushes is not None:
            self._flushes.close()
        self._idle.clear()
        self._jobs.put(None)
        await self._idle.wait()
        self._writer_thread.join()  # it has ended, or is about to

    async def receipt(self, origin: str, index: int) -> bytes | None:
        """The C2SP tlog-proof of an entry, of this or any log in the folder; None until a checkpoint covers it."""
        return await asyncio.to_thread(receipt_of, self._places, origin, index)

    def _time(self) -> None:
        assert self._loop is not None, "the ledger is not started"
        self._timed = True
        self._loop.call_later(OUTCOME_S, self._time_is_up)

    def _time_is_up(self) -> None:
        self._timed = False
        self._overdue = self._writing
        self._send()

    def _soon(self) -> None:
        """Send at the end of this turn of the loop, so that everything that the turn brings goes together."""
        assert self._loop is not None, "the ledger is not started"
        self._called = True
        if self._paced is not None:
            self._paced.cancel()
            self._paced = None
        self._loop.call_soon(self._send)

    def _send(self) -> None:
        """Write what waits, unless a batch is being written or the disk is known to fail."""
        self._called = False
        self._paced = None
        if self._writing or self.problem is not None or not self._pending.entries:
            return
        batch = self._take()
        if self._flushes is not None and self._sent_s >= self._careful_until_s:
            try:
                self._put = self._writer.begin_append(Batch(batch.entries, batch.privates), self._flushes)
            except Exception as failure:  # noqa: BLE001 - whatever it is, the calls that wait must be told
                self._written(batch, "", 0, failure)
                return
            self._look_out(STUCK_S)
        if self._put is None:
            self._jobs.put(batch)

    def _look_out(self, most_s: float) -> None:
        """Let the thread write for a while if what was begun is not as far as this in time."""
        now_s = time.monotonic()
        if now_s - self._sent_s > most_s:
            again = now_s < self._careful_until_s + self._careful_s
            self._careful_s = min(2 * self._careful_s, CAREFUL_MOST_S) if again else CAREFUL_S
            self._careful_until_s = now_s + self._careful_s

    def _take(self) -> _Pending:
        """What waits is what is being written."""
        batch, self._pending = self._pending, _Pending()
        self._waiting = 0
        self._writing, self._under_pen = True, batch
        self._sent_s = time.monotonic()
        return batch

    def _flushed(self) -> None:
        """Called by the loop when a flush has ended."""
        batch, put = self._under_pen, self._put
        assert self._flushes is not None
        failure = None
        try:
            if not self._flushes.ended():
                return
        except OSError as error:
            failure = error
        assert batch is not None
        assert put is not None
        self._put = None
        origin, first, problem = "", 0, None
        try:
            origin, first = self._writer.end_append(put, failure)
        except Exception as error:  # noqa: BLE001 - as above
            problem = error
        self._written(batch, origin, first, problem)

    def _write(self) -> None:
        """The thread. Waits without a cost; on None it closes the log and ends: another may not be had by then."""
        assert self._loop is not None
        while (batch := self._jobs.get()) is not None:
            origin, first, failure = "", 0, None
            try:
                origin, first = self._writer.append(Batch(batch.entries, batch.privates))
            except Exception as error:  # noqa: BLE001 - whatever it is, the calls that wait must be told
                failure = error
            self._loop.call_soon_threadsafe(self._written, batch, origin, first, failure)
        try:
            self._writer.close()
        except OSError as error:
            log.error("the ledger was not closed in good order", extra={"fields": {"problem": str(error)}})
        finally:
            self._loop.call_soon_threadsafe(self._idle.set)

    def _written(self, batch: _Pending, origin: str, first: int, failure: Exception | None) -> None:
        self._writing, self._under_pen = False, None
        self._idle.set()
        self._look_out(SLOW_S)
        if failure is not None:
            self._fail(batch, failure)
            return
        if self.problem is not None:
            log.info("the ledger can be written again", extra={"fields": {"refused": self._refused}})
            self.problem = None
        waiters = []
        for entry, waiter, index in zip(batch.entries, batch.waiters, count(first)):
            if waiter is not None:
                self._under_way += entry.startswith(ADMITTED)
                waiter.place = Place(origin, index)
                if waiter.gone:
                    self._nobody_waits(entry, waiter.place)
                waiters.append(waiter)
        for behind, mark in batch.marks:
            if not mark.done():
                mark.set_result(Place(origin, first + behind))
        if self._pending.entries:
            self._next(len(waiters))
        # The last thing that is done here: who waits goes on within the call, and gives us entries again.
        for waiter in waiters:
            waiter.wait.wake()

    def _nobody_waits(self, entry: bytes, place: Place) -> None:
        """The caller was cancelled before it learnt where its decision stands, and cannot write the outcome."""
        if entry.startswith(ADMITTED):
            self.outcome(encode(Outcome(self._clock_ms(), str(place), result="client_gone")))

    def _next(self, crowd: int) -> None:
        """Something waits, and the thread has nothing to do; `crowd` decisions were in its last batch."""
        assert self._loop is not None
        if not (self._overdue or self._waiting):
            if not self._timed:
                self._time()
            return
        self._overdue = False
        rest_s = self._sent_s + PACE_S - time.monotonic()
        if crowd >= CROWD and self._waiting <= self._under_way and rest_s > 0:
            self._called = True
            self._paced = self._loop.call_later(rest_s, self._send)
        else:
            self._soon()

    def _fail(self, batch: _Pending, failure: Exception) -> None:
        """Refuse every decision that waits, keep everything else, try again soon."""
        assert self._loop is not None
        if self.problem is None:
            self._since_ms = self._clock_ms()
            self._refused = 0
            ours = None if isinstance(failure, OSError) else failure
            log.error("the ledger cannot be written", extra={"fields": {"problem": str(failure)}}, exc_info=ours)
        self.problem = f"the ledger cannot be written: {failure}"
        waiting, self._pending = self._pending, _Pending()
        self._waiting = 0
        refused = []
        for part in (batch, waiting):
            for _, mark in part.marks:
                if not mark.done():
                    mark.set_exception(LedgerUnavailable(self.problem))
            for entry, private, waiter in zip(part.entries, part.privates, part.waiters, strict=True):
                if waiter is None:
                    self._pending.add(entry, private, None)
                else:
                    waiter.problem = self.problem
                    refused.append(waiter)
        self._refused += len(refused)
        self._loop.call_later(RETRY_S, self._try_again)
        for waiter in refused:
            waiter.wait.wake()

    def _try_again(self) -> None:
        """What was kept, and an entry that says since when and how many were refused, is the trial."""
        if self._writer_thread.is_alive() and not self._writing:
            told = Degraded(self._clock_ms(), self.problem or "", self._refused, self._since_ms, "ledger")
            self._pending.add(encode(told), None, None)
            self._jobs.put(self._take())

    async def _sign(self) -> None:
        """A checkpoint a second, at most, beside the writing."""
        while True:
            started = time.monotonic()
            try:
                await asyncio.to_thread(self._writer.log.checkpoint)
                self.signs = True
            except (OSError, RuntimeError) as error:  # the latter: there is no thread to be had now
                self.signs = False
                log.warning("the checkpoint cannot be written", extra={"fields": {"problem": str(error)}})
            await asyncio.sleep(max(0.1, CHECKPOINT_S - (time.monotonic() - started)))
