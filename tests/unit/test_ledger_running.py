"""The ledger as a gateway uses it: decisions durable before they return, outcomes on the way, failures and recovery."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from entrepot.ledger import entries as e
from entrepot.ledger import ledger as ledger_module
from entrepot.ledger import store
from entrepot.ledger.erase import erase
from entrepot.ledger.faults import LedgerRefused, LedgerUnavailable
from entrepot.ledger.files import Files
from entrepot.ledger.flushes import Flushes
from entrepot.ledger.ledger import Ledger, Place
from entrepot.ledger.read import entries_of, folders_of, personal_of
from entrepot.ledger.verify import open_receipt
from ledgers import HOWS, LOG, NAME, NOW_MS, ORIGIN, Fault, Faulty, Small, decision, key_of, outcome, verified


@pytest.fixture(autouse=True)
def _little_room_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "AHEAD", 4096)
    monkeypatch.setattr(store, "STEPS", 2)


def opened(data: Path, files: Files | None = None) -> Ledger:
    return Ledger.open(data, key_name=NAME, files=files, clock_ms=lambda: NOW_MS)


async def call(ledger: Ledger, number: int, user: str | None = None) -> Place:
    entry, private = decision(number, user=user)
    place = await ledger.decide(entry, private)
    ledger.outcome(outcome(str(place), number))
    return place


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - files and flags tell nobody that they change
            await asyncio.sleep(0.01)


def told(data: Path) -> list[e.Entry]:
    return [e.decode(read.entry) for log in folders_of(data / "ledger") for read in entries_of(log)]


def test_calls_at_once_share_writes_and_all_is_proved(tmp_path: Path) -> None:
    async def run() -> list[Place]:
        ledger = opened(tmp_path, files)
        ledger.start()
        places = await asyncio.gather(*(call(ledger, number) for number in range(40)))
        refused, private = decision(40, admitted=False)
        places.append(await ledger.decide(refused, private))
        await ledger.close()
        return places

    files = Faulty()
    places = asyncio.run(run())
    assert [str(place) for place in places[:2]] == [f"{ORIGIN}/1", f"{ORIGIN}/2"]
    assert len(set(places)) == 41
    report = verified(tmp_path)
    assert report.findings() == []
    assert (report.calls.decisions, report.calls.refusals, report.calls.outcomes) == (40, 1, 40)
    assert files.done.count("sync") < 32, "forty calls took a few writes"


class Threaded(Files):
    """Where the kernel does not flush beside us."""

    def flushes(self) -> Flushes | None:
        return None


class Busy(Files):
    """Where it does not take every second request."""

    def flushes(self) -> Flushes | None:
        return Unwilling()


class Unwilling(Flushes):
    asked = 0

    def begin(self, fds: Sequence[int]) -> None:
        self.asked += 1
        if self.asked % 2 == 0:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        super().begin(fds)


async def twenty_calls(data: Path, files: Files) -> None:
    ledger = opened(data, files)
    ledger.start()
    for number in range(20):
        await call(ledger, number)
    await ledger.close()


@pytest.mark.parametrize("files", [Threaded(), Busy()])
def test_what_the_kernel_does_not_do_the_thread_does(tmp_path: Path, files: Files) -> None:
    asyncio.run(twenty_calls(tmp_path, files))
    report = verified(tmp_path)
    assert (report.findings(), report.calls.decisions, report.calls.outcomes) == ([], 20, 20)
    assert not (tmp_path / "quarantine").exists()


class Counted(Files):
    """Counts the batches that the loop wrote."""

    begun = 0

    def flushes(self) -> Flushes | None:
        files = self

        class Counting(Flushes):
            def begin(self, fds: Sequence[int]) -> None:
                files.begun += 1
                super().begin(fds)

        return Counting()


@pytest.mark.parametrize(("slow_s", "stuck_s"), [(10.0, 10.0), (0.0, 10.0), (10.0, 0.0)])
def test_to_a_slow_disk_the_thread_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow_s: float, stuck_s: float
) -> None:
    """At 0 s every batch is too slow, so that the first is the only one that the loop writes."""
    monkeypatch.setattr(ledger_module, "SLOW_S", slow_s)
    monkeypatch.setattr(ledger_module, "STUCK_S", stuck_s)
    files = Counted()
    asyncio.run(twenty_calls(tmp_path, files))
    assert files.begun > 10 if slow_s and stuck_s else files.begun <= 1
    assert verified(tmp_path).findings() == []


class Threadless(Files):
    """Where the process can have no more threads than it has."""

    def aside(self, work: Callable[[], None]) -> None:
        raise RuntimeError("can't start new thread")


def test_without_a_thread_to_be_had_all_that_was_kept_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def none_free(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    async def run() -> None:
        ledger = opened(tmp_path, Threadless())
        with monkeypatch.context() as patched:
            patched.setattr(asyncio, "to_thread", none_free)
            ledger.start()
            for number in range(20):
                await call(ledger, number)
            assert ledger._signing is not None
            assert not ledger._signing.done()
            await asyncio.wait_for(ledger.close(), 10)

    asyncio.run(run())
    report = verified(tmp_path)
    assert (report.findings(), report.calls.decisions, report.calls.outcomes) == ([], 20, 20)
    assert not (tmp_path / "quarantine").exists()
    assert isinstance(told(tmp_path)[-1], e.Closed), "it is closed in good order"
    [log] = report.reports.values()
    assert log.checkpoint is not None
    assert log.checkpoint.size == log.tree.size


@pytest.mark.parametrize("how", HOWS)
def test_every_operation_of_a_running_ledger_fails_once(tmp_path: Path, how: str) -> None:
    """Whoever was told where his decision stands finds it there after the next start, and each has its outcome."""

    async def live(data: Path, files: Faulty, fault: Fault | None) -> dict[Place, bytes]:
        ledger = Ledger.open(data, key_name=NAME, files=files, clock_ms=lambda: NOW_MS)
        ledger._writer.longest = 24
        ledger.start()
        if fault is not None:
            files.fault = Fault(len(files.done) + fault.at, fault.how)
        found: dict[Place, bytes] = {}
        for number in range(16):
            entry, private = decision(number)
            try:
                place = await ledger.decide(entry, private)
            except LedgerUnavailable:
                await until(lambda: ledger.available)
            else:
                found[place] = entry
                ledger.outcome(outcome(str(place), number))
        await ledger.close()
        return found

    files = Faulty()
    assert len(asyncio.run(live(tmp_path / "well", files, None))) == 16
    count = len(files.done)
    for at in range(0, count, 5):
        data = tmp_path / str(at)
        files = Faulty()
        found = asyncio.run(live(data, files, Fault(at, how)))
        asyncio.run(opened(data).close())
        there = {
            Place(read.origin, read.number): read.entry
            for log in folders_of(data / "ledger")
            for read in entries_of(log)
        }
        assert {place: there.get(place) for place in found} == found, (at, files.done)
        report = verified(data)
        assert (report.findings(), report.open_calls()) == ([], 0)


def test_a_decision_is_on_disk_when_it_returns_and_an_outcome_soon(tmp_path: Path) -> None:
    async def run() -> None:
        ledger = opened(tmp_path)
        ledger.start()
        place = await call(ledger, 0)
        log = tmp_path / "ledger" / LOG
        assert [read.number for read in entries_of(log)][-1] == place.number
        await until(lambda: len(list(entries_of(log))) > place.number + 1)
        await ledger.close()

    asyncio.run(run())


def test_a_receipt_comes_with_the_next_checkpoint(tmp_path: Path) -> None:
    """And from the files alone, also when what is derived from them is gone or wrong."""

    async def run() -> None:
        ledger = opened(tmp_path)
        ledger.start()
        places = [await call(ledger, number) for number in range(3)]
        assert await ledger.receipt(ORIGIN, 99) is None
        assert await ledger.receipt(f"{NAME}/1999-01/0", 0) is None
        found = None
        async with asyncio.timeout(5):
            while found is None:
                await asyncio.sleep(0.02)
                found = await ledger.receipt(places[1].origin, places[1].number)
        assert open_receipt(found, key_of(tmp_path)).number == places[1].number
        derived = tmp_path / "derived" / "ledger" / LOG
        for path in list(derived.iterdir()):
            path.write_bytes(b"x" * path.stat().st_size)
            assert await ledger.receipt(places[1].origin, places[1].number) is not None
            path.unlink()
            again = await ledger.receipt(places[1].origin, places[1].number)
            assert again is not None
            assert open_receipt(again, key_of(tmp_path)).entry == open_receipt(found, key_of(tmp_path)).entry
        await ledger.close()

    asyncio.run(run())


def test_a_mark_stands_behind_all_that_was_given_before_it_and_before_all_after(tmp_path: Path) -> None:
    async def run() -> list[tuple[Place, int]]:
        ledger = opened(tmp_path)
        ledger.start()
        marks = [(ledger.mark(), 0)]
        place = await call(ledger, 0)
        for number in range(1, 40):
            if number % 7 == 0:
                await asyncio.sleep(0.01)
            for _ in range(number % 3):
                ledger.outcome(e.encode(e.Degraded(NOW_MS, "", number, NOW_MS, "test")))
            marks.append((ledger.mark(), number))
        assert [mark.done() for mark, _ in marks[-2:]] == [False, False]
        found = [(await mark, number) for mark, number in marks]
        assert found[0][0] == place
        assert await ledger.mark() == found[-1][0], "nothing is on its way"
        await ledger.close()
        return found

    found = asyncio.run(run())
    entries = {read.number: e.decode(read.entry) for log in folders_of(tmp_path / "ledger") for read in entries_of(log)}
    for place, number in found:
        noted = {at: one.refused for at, one in entries.items() if isinstance(one, e.Degraded)}
        assert {at < place.number for at, of in noted.items() if of <= number} <= {True}
        assert {at >= place.number for at, of in noted.items() if of > number} <= {True}


def test_a_mark_fails_with_the_write(tmp_path: Path) -> None:
    files = Faulty(lasting=True)

    async def run() -> None:
        ledger = opened(tmp_path, files)
        ledger.start()
        files.fault = Fault(len(files.done), "fails")
        ledger.outcome(e.encode(e.Degraded(NOW_MS, "", 0, NOW_MS, "test")))
        with pytest.raises(LedgerUnavailable):
            await ledger.mark()
        with pytest.raises(LedgerUnavailable):
            ledger.mark()
        files.heal()
        await until(lambda: ledger.available)
        assert (await ledger.mark()).number > 0
        await ledger.close()

    asyncio.run(run())


def test_while_it_cannot_be_written_calls_are_refused_and_then_served_again(tmp_path: Path) -> None:
    """Outcomes of calls that were decided before are kept meanwhile; how long it lasted is an entry."""
    files = Faulty(lasting=True)

    async def run() -> None:
        ledger = opened(tmp_path, files)
        ledger.start()
        entry, private = decision(0)
        place = await ledger.decide(entry, private)
        files.fault = Fault(len(files.done), "tears")
        with pytest.raises(LedgerUnavailable, match="Input/output error"):
            await call(ledger, 1)
        assert not ledger.available
        ledger.outcome(outcome(str(place)))
        with pytest.raises(LedgerUnavailable):
            await call(ledger, 2)
        files.heal()
        await until(lambda: ledger.available)
        await call(ledger, 3)
        await ledger.close()

    asyncio.run(run())
    report = verified(tmp_path)
    assert report.findings() == []
    assert report.open_calls() == 0
    [degraded] = [one for one in told(tmp_path) if isinstance(one, e.Degraded)]
    assert degraded.refused == 2
    assert degraded.what == "ledger"


def test_a_disk_that_fails_to_the_end(tmp_path: Path) -> None:
    """Closing does not hang or raise; the next start finds everything that was acknowledged."""
    files = Faulty(lasting=True)

    async def run() -> Place:
        ledger = opened(tmp_path, files)
        ledger.start()
        entry, private = decision(0)
        place = await ledger.decide(entry, private)
        files.fault = Fault(len(files.done), "fails")
        ledger.outcome(outcome(str(place)))
        async with asyncio.timeout(10):
            await ledger.close()
        return place

    place = asyncio.run(run())
    asyncio.run(opened(tmp_path).close())
    assert verified(tmp_path).findings() == []
    assert (str(place), "lost") in [(one.decision, one.result) for one in told(tmp_path) if isinstance(one, e.Outcome)]


def test_no_call_is_served_into_a_folder_that_was_taken_away(tmp_path: Path) -> None:
    async def run() -> None:
        ledger = opened(tmp_path)
        ledger.start()
        await call(ledger, 0)
        (tmp_path / "ledger").rename(tmp_path / "away")
        for number in range(1, 1_000):
            try:
                await call(ledger, number)
            except LedgerUnavailable:
                break
            await asyncio.sleep(0.01)
        assert ledger.problem is not None
        assert "No such file or directory" in ledger.problem
        (tmp_path / "away").rename(tmp_path / "ledger")
        await until(lambda: ledger.available)
        await call(ledger, 1_000)
        await ledger.close()

    asyncio.run(run())
    report = verified(tmp_path)
    assert (report.findings(), report.open_calls()) == ([], 0)
    assert any(isinstance(one, e.Degraded) for one in told(tmp_path))


def test_a_full_disk_and_then_room(tmp_path: Path) -> None:
    files = Small(folder=tmp_path, room=20_000)

    async def run() -> int:
        ledger = opened(tmp_path, files)
        ledger.start()
        served = 0
        while ledger.available:
            try:
                await call(ledger, served)
            except LedgerUnavailable as full:
                assert "No space left" in str(full)  # noqa: PT017 - it comes after calls that fit
            else:
                served += 1
        files.room = 200_000
        await until(lambda: ledger.available)
        for number in range(20):
            await call(ledger, served + number)
        await ledger.close()
        return served + 20

    served = asyncio.run(run())
    report = verified(tmp_path)
    assert report.findings() == []
    assert report.calls.decisions == report.calls.outcomes == served
    assert not (tmp_path / "quarantine").exists(), "what did not fit was cut off"


def test_a_disk_that_takes_entries_and_no_checkpoint(tmp_path: Path) -> None:
    class Unsigned(Files):
        full = False

        def replace(self, path: Path, data: bytes) -> None:
            if self.full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            super().replace(path, data)

    async def run() -> None:
        files = Unsigned()
        ledger = opened(tmp_path, files)
        ledger.start()
        files.full = True
        await call(ledger, 0)
        await until(lambda: not ledger.signs)
        assert ledger.available
        files.full = False
        await until(lambda: ledger.signs)
        await ledger.close()

    asyncio.run(run())
    assert verified(tmp_path).findings() == []


def test_a_client_that_goes_while_its_decision_is_written(tmp_path: Path) -> None:
    """It cannot write the outcome of a decision that it never learnt of: the ledger does."""

    async def run() -> None:
        ledger = opened(tmp_path)
        ledger.start()
        entry, private = decision(0)
        waiting = asyncio.create_task(ledger.decide(entry, private))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await call(ledger, 1)
        await ledger.close()

    asyncio.run(run())
    assert verified(tmp_path).findings() == []
    assert verified(tmp_path).open_calls() == 0
    assert "client_gone" in [one.result for one in told(tmp_path) if isinstance(one, e.Outcome)]


def test_a_client_that_goes_just_as_its_decision_is_written(tmp_path: Path) -> None:
    """The future has its result, the caller is cancelled before it sees it."""

    async def run() -> None:
        ledger = opened(tmp_path)
        ledger.start()
        entry, private = decision(0)
        waiting = asyncio.create_task(ledger.decide(entry, private))
        written = ledger._written

        def written_and_gone(*what: Any) -> None:
            written(*what)
            waiting.cancel()

        ledger._written = written_and_gone
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await ledger.close()

    asyncio.run(run())
    assert verified(tmp_path).open_calls() == 0


def test_a_restart_goes_on_and_decisions_without_an_outcome_are_lost(tmp_path: Path) -> None:
    async def run(*, close: bool) -> Place:
        ledger = opened(tmp_path)
        ledger.start()
        entry, private = decision(0)
        place = await ledger.decide(entry, private)
        if close:
            await ledger.close()
        else:  # as if it were killed
            ledger._writer.abandon()
        return place

    first = asyncio.run(run(close=False))
    second = asyncio.run(run(close=True))
    assert second.number == first.number + 3, "opened, and the outcome of the first"
    outcomes = [one for one in told(tmp_path) if isinstance(one, e.Outcome)]
    assert [(one.decision, one.result) for one in outcomes] == [(str(first), "lost")]
    report = verified(tmp_path)
    assert report.findings() == []
    assert report.open_calls() == 1


def test_the_month_and_the_number_of_entries_end_a_log(tmp_path: Path) -> None:
    now_ms = NOW_MS

    async def run() -> list[str]:
        nonlocal now_ms
        ledger = Ledger.open(tmp_path, key_name=NAME, clock_ms=lambda: now_ms)
        ledger.start()
        origins = [(await call(ledger, 0)).origin]
        now_ms += 14 * 86_400_000
        origins.append((await call(ledger, 1)).origin)
        ledger._writer.longest = 5
        origins += [(await call(ledger, number)).origin for number in range(6)]
        assert ledger.origin == origins[-1]
        receipt = await ledger.receipt(origins[0], 1)
        assert receipt is not None, "a log that ended still proves"
        open_receipt(receipt, key_of(tmp_path))
        await ledger.close()
        return origins

    origins = asyncio.run(run())
    assert origins[:2] == [f"{NAME}/2026-11/0", f"{NAME}/2026-12/0"]
    assert origins[-1] == f"{NAME}/2026-12/{len(set(origins)) - 2}"
    report = verified(tmp_path)
    assert report.findings() == []
    assert report.open_calls() == 0


def test_keys_are_made_once_and_kept_private(tmp_path: Path) -> None:
    asyncio.run(opened(tmp_path).close())
    secret, public = (tmp_path / "keys" / f"entrepot.example_gateway-1.{kind}" for kind in ("key", "vkey"))
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "ledger" / LOG / "private").stat().st_mode) == 0o700
    kept, handed_out = secret.read_text(), public.read_text()
    public.unlink()
    asyncio.run(opened(tmp_path).close())
    assert public.read_text() == handed_out
    for damage, said in (
        (secret.unlink, "was handed out"),
        (lambda: secret.write_text("zz"), "is damaged"),
        (lambda: secret.write_text("00" * 32), "is not the verifier key of"),
    ):
        damage()
        with pytest.raises(LedgerRefused, match=said):
            opened(tmp_path)
        secret.write_text(kept)
    public.write_text(handed_out[:-5])
    with pytest.raises(LedgerRefused, match="is damaged"):
        opened(tmp_path)


@pytest.mark.parametrize("name", ["other/gateway-1", "entrepot.example/gateway-10", f"{NAME}/a_b", f"{NAME}/../x"])
def test_a_name_that_is_not_below_the_keys_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(LedgerRefused, match="is no name of a log"):
        Ledger.open(tmp_path, key_name=NAME, name=name)


def test_erasing_leaves_every_proof_as_it_was(tmp_path: Path) -> None:
    """While the gateway runs; the values are gone from the files, the erasure is an entry that does not say whose."""

    async def run() -> None:
        ledger = opened(tmp_path)
        ledger.start()
        for number in range(6):
            await call(ledger, number, f"user-{number % 2}")
        await asyncio.sleep(0.1)

        def goes(account: str, at_ms: int, personal: e.Personal) -> bool:
            return (account, personal.user) == ("kanto", "user-1")

        assert await asyncio.to_thread(erase, tmp_path, NAME, goes, "asked for") == 3
        assert await asyncio.to_thread(erase, tmp_path, NAME, goes, "asked for") == 0
        await call(ledger, 6, "user-1")
        await ledger.close()

    asyncio.run(run())
    assert verified(tmp_path).findings() == []
    log = tmp_path / "ledger" / LOG
    left = personal_of(log)
    assert sorted(str(personal.user) for personal in left.values()) == ["user-0", "user-0", "user-0", "user-1"]
    assert b"203.0.113.1" not in (log / "private" / "00000000.private").read_bytes()
    [erasure] = [one for one in told(tmp_path) if isinstance(one, e.Erasure)]
    assert (erasure.entries, erasure.basis) == (3, "asked for")
    assert b"user-1" not in e.encode(erasure)
    asyncio.run(opened(tmp_path).close())
    assert personal_of(log) == left, "a restart does not take what was erased for a torn file"
    for read in entries_of(log):
        entry = e.decode(read.entry)
        if isinstance(entry, e.Decision) and read.number in left:
            assert len(entry.commitment) == 64
            assert msgspec.json.decode(read.entry)["decision"]["commitment"] == entry.commitment
