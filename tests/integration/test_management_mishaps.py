"""Changes when something fails, and what happens at an instant or beside another control plane."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from changing import (
    ACCOUNT,
    Work,
    capacity_of,
    changes_of,
    over,
    properties,
    refused,
    row_of,
    scale,
    until,
)
from entrepot.clock import wall_clock_ms
from entrepot.errors import Code, Error
from entrepot.ledger.faults import LedgerUnavailable
from entrepot.ledger.files import Files
from entrepot.management.control import Control
from entrepot.management.keyring import Keyring
from entrepot.resources.documents import timestamp
from entrepot.resources.ids import access_id
from entrepot.storage import EVERYTHING
from worlds import ADMIN, RELEASE, demo_world, open_control, put_release


def test_nothing_is_decided_unrecorded(tmp_path: Path) -> None:
    async def work(control: Control, data: Path) -> None:
        account = await control.declared_account(ACCOUNT)
        control.ledger.problem = "the disk is full"
        with pytest.raises(Error) as caught:
            await control.judge("deploy", "127.0.0.1", {}, account, account.deployments[0], actor=ADMIN)
        assert caught.value.code is Code.LEDGER_UNAVAILABLE
        control.ledger.problem = None

    over(work, tmp_path)


@pytest.mark.pure
def test_a_batch_happens_only_with_its_decisions_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(control: Control, data: Path) -> None:
        account = await control.declared_account(ACCOUNT)
        decide, recorded = control.ledger.decide, []

        async def batch(number: int) -> None:
            async with control.shared(ADMIN, "batch"):
                verdict = await control.judge("deploy", "127.0.0.1", {}, account, account.deployments[0], actor=ADMIN)
                assert verdict.permit
                recorded.append(("asked", number))
                await scale(control, number)

        async def slow(entry: bytes, private: bytes | None) -> Any:
            await asyncio.sleep(0.05)
            recorded.append(("written", entry[:12]))
            return await decide(entry, private)

        async def fail(entry: bytes, private: bytes | None) -> Any:
            raise LedgerUnavailable("the disk is full")

        monkeypatch.setattr(control.ledger, "decide", fail)
        error = await refused(control, batch(21))
        assert error.code is Code.LEDGER_UNAVAILABLE
        monkeypatch.setattr(control.ledger, "decide", slow)
        await batch(22)
        assert [what for what, _ in recorded] == ["asked", "asked", "written", "written"]
        assert recorded[-1][1].startswith(b'{"change"')
        assert capacity_of(control) == 22

    over(work, tmp_path)


@pytest.mark.pure
def test_while_the_ledger_cannot_be_written_nothing_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(control: Control, data: Path) -> None:
        control.ledger.problem = "the disk is full"
        error = await refused(control, scale(control, 5))
        assert error.code is Code.LEDGER_UNAVAILABLE
        control.ledger.problem = None
        await scale(control, 6)
        # It fails once the change is committed: the answer says so, and it takes effect when it is recorded.
        append = control.ledger.append

        async def fail(entry: bytes) -> Any:
            raise LedgerUnavailable("the disk is full")

        monkeypatch.setattr(control.ledger, "append", fail)
        with pytest.raises(Error) as caught:
            await scale(control, 8)
        assert caught.value.name == "ChangeNotRecorded"
        assert capacity_of(control) == 6
        with pytest.raises(Error) as caught:
            await scale(control, 11)
        assert caught.value.name == Code.LEDGER_UNAVAILABLE.label
        monkeypatch.setattr(control.ledger, "append", append)
        await until(lambda: capacity_of(control) == 8)
        await scale(control, 12)
        ids = [change.id for _, change in changes_of(data)]
        assert len(ids) == len(set(ids)) == control.revision.n

    over(work, tmp_path)


@pytest.mark.pure
def test_an_entry_that_a_failing_disk_only_seems_to_hold_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failed sync it stands in its file until what was not acknowledged is set aside."""
    sync, fails = Files.sync, False

    def failing(files: Files, fd: int) -> None:
        if fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(files, fd)

    monkeypatch.setattr(Files, "sync", failing)
    monkeypatch.setattr(Files, "flushes", lambda _: None)

    async def work(control: Control, data: Path) -> None:
        nonlocal fails
        fails = True
        with pytest.raises(Error) as caught:
            await scale(control, 8)
        assert caught.value.name == "ChangeNotRecorded"
        with pytest.raises(LedgerUnavailable):
            await control._outbox.drain()
        fails = False
        await until(lambda: capacity_of(control) == 8)
        ids = [change.id for _, change in changes_of(data)]
        assert len(ids) == len(set(ids)) == control.revision.n

    over(work, tmp_path)


@pytest.mark.pure
def test_what_a_crash_left_in_the_outbox_is_brought_to_the_ledger_once(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crash_before(control: Control, data: Path) -> None:
        """Committed, and not in the ledger."""

        async def fail(entry: bytes) -> Any:
            raise LedgerUnavailable("killed")

        monkeypatch.setattr(control.ledger, "append", fail)
        with pytest.raises(Error):
            await scale(control, 61)

    async def crash_behind(control: Control, data: Path) -> None:
        """In the ledger, and nobody noted where; some entries of others stand behind."""

        async def fail(places: Mapping[int, str]) -> None:
            raise RuntimeError("killed")

        monkeypatch.setattr(control.store, "placed", fail)
        await scale(control, 62)
        await until(lambda: not control.ready)

    async def run(work: Work | None) -> None:
        control = await open_control(tmp_path, url)
        try:
            assert await control.store.unplaced() == []
            held = changes_of(tmp_path)
            assert [change.revision for _, change in held] == list(range(1, control.revision.n + 1))
            places = [each.place for each in await control.store.since(0)]
            assert places == [place for place, _ in held]
            if work is not None:
                await work(control, tmp_path)
        finally:
            control._behind = False  # nothing is made good before the end
            await control.close()

    async def prepared(control: Control, data: Path) -> None:
        await scale(control, 60)

    over(prepared, tmp_path, url)
    for work, capacity in ((crash_before, 61), (crash_behind, 62)):
        asyncio.run(run(work))
        monkeypatch.undo()

        async def look(control: Control, data: Path, capacity: int = capacity) -> None:
            assert capacity_of(control) == capacity

        asyncio.run(run(look))


def test_a_release_takes_effect_at_its_instant(tmp_path: Path) -> None:
    async def work(control: Control, data: Path) -> None:
        before = control.program.release
        later = access_id("policyRelease", "second")
        async with control.change(ADMIN, "test/schedule") as change:
            await put_release(change, strict(), later, enforce=False)
            row = await change.get(EVERYTHING, later)
            assert row is not None
            body = properties(row, state="scheduled", effectiveAt=timestamp(wall_clock_ms() + 1_500))
            await change.put(change.draft(later, "policyRelease", body))
        assert control.program.release == before
        await until(lambda: control.program.release != before)
        assert (await row_of(control, RELEASE)).body["properties"]["state"] == "superseded"
        assert (await row_of(control, later)).body["properties"]["state"] == "inForce"
        _, entry = changes_of(data)[-1]
        assert entry.action == "Entrepot.Access/policyReleases/takeEffect"
        async with control.change(ADMIN, "test/rollback") as change:
            await change.enforce(RELEASE)
        assert control.program.release == before

    over(work, tmp_path)


def test_of_releases_that_are_due_together_the_last_one_stays(tmp_path: Path) -> None:
    """As after an outage. One that could not take effect in its time does not come back over it either."""
    early, last, never = (access_id("policyRelease", name) for name in ("zz-early", "aa-last", "mm-never"))

    async def schedule(control: Control, world: Any, **at_ms: int) -> None:
        async with control.change(ADMIN, "test/schedule") as change:
            for release, instant in at_ms.items():
                id_ = access_id("policyRelease", release.replace("_", "-"))
                await put_release(change, world, id_, enforce=False)
                row = await change.get(EVERYTHING, id_)
                assert row is not None
                body = properties(row, state="scheduled", effectiveAt=timestamp(instant))
                await change.put(change.draft(id_, "policyRelease", body))

    async def work(control: Control, data: Path) -> None:
        async def states() -> list[str]:
            return [(await row_of(control, each)).body["properties"]["state"] for each in (early, last)]

        at_ms = wall_clock_ms()
        await schedule(control, strict(), zz_early=at_ms - 60_000, aa_last=at_ms - 30_000)
        await until(lambda: not control._world.releases)
        assert await states() == ["superseded", "inForce"]
        await schedule(control, demo_world(), mm_never=at_ms - 45_000)
        await until(lambda: not control._world.releases)
        assert await states() == ["superseded", "inForce"]
        assert (await row_of(control, never)).body["properties"]["state"] == "superseded"

    over(work, tmp_path)


def strict() -> Any:
    world = demo_world()
    return replace(world, packs=world.packs[:1])


def test_a_release_that_cannot_take_effect_is_refused_before(tmp_path: Path) -> None:
    async def schedule(control: Control) -> None:
        async with control.change(ADMIN, "test/schedule") as change:
            body = {"properties": {"packs": [{"name": "x", "text": "[pack"}], "state": "scheduled"}}
            await change.put(change.draft(access_id("policyRelease", "bad"), "policyRelease", body))

    async def work(control: Control, data: Path) -> None:
        assert (await refused(control, schedule(control))).code is Code.INVALID_BODY

    over(work, tmp_path)


def test_two_control_planes_over_one_database(tmp_path: Path, url: str) -> None:
    async def work(first: Control, data: Path) -> None:
        second = await open_control(tmp_path / "second", url)
        try:
            assert second.revision == first.revision
            keyrings = [Keyring(each.store, each.data / "ca") for each in (first, second)]
            assert len({(await each.keys()).trust for each in keyrings}) == 1
            await scale(first, 31)
            await until(lambda: capacity_of(second) == 31)
            await asyncio.gather(*(scale(each, 40 + at) for at in range(5) for each in (first, second)))
            await until(lambda: first.revision == second.revision)
            assert capacity_of(first) == capacity_of(second)
            ids = [change.id for folder in (data, tmp_path / "second") for _, change in changes_of(folder)]
            assert len(ids) == len(set(ids)) == first.revision.n
        finally:
            await second.close()

    over(work, tmp_path, url)


def test_a_restored_database_begins_an_epoch(tmp_path: Path) -> None:
    async def work(control: Control, data: Path) -> None:
        before = control.revision
        await control.store.raise_epoch()
        await until(lambda: control.revision.epoch == before.epoch + 1)
        await scale(control, 3)
        assert changes_of(data)[-1][1].epoch == before.epoch + 1

    over(work, tmp_path)
