"""A folder as a source: what an edit is published as, and what a refused one leaves; what is freed, and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from changing import until
from entrepot.config import Config
from entrepot.gateway.retired import SLICE, Retired
from entrepot.gateway.watch import Folder
from entrepot.resources.problems import WorldInvalid
from entrepot.snapshot import Compiled, Delta, Published, Revision, publish_files
from harness import BASE_PACK, Account, Upstream, World

CONFIG = Config(Path(), {"UPSTREAM_KEY": "k"})


class Editor:
    """Reads one change after the other; `taken` says whether the parent could take the last one over."""

    def __init__(self, folder: Path) -> None:
        self.world = World(folder, [Upstream("main", "http://x.example")], [Account("a"), Account("b")])
        self.world.write()
        self.source = Folder(folder, CONFIG)
        self._changes: AsyncIterator[Published | Delta] | None = None

    async def begin(self) -> Published:
        first = await self.source.first()
        self._changes = self.source.changes()
        self.source.running(first.revision, ready=True)
        return first

    async def next(self, *, taken: bool = True) -> Published | Delta:
        self.source.look()
        assert self._changes is not None
        found = await asyncio.wait_for(anext(self._changes), 10)
        self.source.running(found.revision if taken else Revision(0, found.revision.n - 1), ready=True)
        return found

    async def end(self) -> None:
        await self._changes.aclose()  # type: ignore[union-attr]


def test_an_edit_of_clients_is_a_change_and_any_other_is_a_whole(tmp_path: Path) -> None:
    async def play() -> None:
        editor = Editor(tmp_path)
        first = await editor.begin()
        assert first.revision == Revision(0, 1)
        assert await editor.next() == Delta(Revision(0, 1), Revision(0, 2))

        editor.world.accounts[1:] = [Account("c", flag="f")]
        editor.world.write()
        change = await editor.next()
        assert isinstance(change, Delta)
        assert [account.name for account in change.accounts] == ["c"]
        assert set(change.gone) == {("account", "b"), ("organization", "org-b")}
        assert (change.after, change.revision) == (Revision(0, 2), Revision(0, 3))

        editor.world.upstreams.append(Upstream("second", "http://y.example"))
        editor.world.write()
        assert isinstance(await editor.next(), Published)
        (tmp_path / "packs" / "base.toml").write_text(BASE_PACK + "\n")
        assert isinstance(await editor.next(), Published)
        assert await editor.next() == Delta(Revision(0, 5), Revision(0, 6))
        await editor.end()

    asyncio.run(play())


def test_a_start_is_no_edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("entrepot.gateway.watch.POLL_S", 0.01)
    monkeypatch.setattr("entrepot.gateway.watch.QUIET_S", 0.03)

    async def play() -> None:
        source = Editor(tmp_path).source
        first = await source.first()
        source.running(first.revision, ready=True)
        changes = source.changes()
        found = asyncio.ensure_future(anext(changes))
        await asyncio.wait([found], timeout=0.3)
        assert not found.done()
        (tmp_path / "more.toml").write_text('[[provider]]\nname = "another"\n')
        assert isinstance(await asyncio.wait_for(found, 10), Published)
        await changes.aclose()  # type: ignore[attr-defined]

    asyncio.run(play())


def test_what_was_not_taken_over_is_published_again_from_what_runs(tmp_path: Path) -> None:
    async def play() -> None:
        editor = Editor(tmp_path)
        await editor.begin()
        editor.world.accounts.append(Account("c"))
        editor.world.write()
        refused = await editor.next(taken=False)
        again = await editor.next()
        assert refused == again
        assert isinstance(again, Delta)
        assert again.after == Revision(0, 1)
        assert await editor.next() == Delta(Revision(0, 2), Revision(0, 3))
        await editor.end()

    asyncio.run(play())


def test_a_mistake_is_told_until_it_is_mended(tmp_path: Path) -> None:
    async def play() -> None:
        editor = Editor(tmp_path)
        await editor.begin()
        (tmp_path / "world.toml").write_text("[[account")
        waiting = asyncio.create_task(editor.next())
        while editor.source.problem is None:  # noqa: ASYNC110 - an attribute tells
            await asyncio.sleep(0.01)
        editor.world.write()
        assert await waiting == Delta(Revision(0, 1), Revision(0, 2))
        assert editor.source.problem is None
        await editor.end()

    asyncio.run(play())


def test_another_edition_of_geographic_data_is_a_whole(tmp_path: Path) -> None:
    async def play() -> None:
        editor = Editor(tmp_path / "world")
        edition = tmp_path / "geo.mmdb"
        editor.world.gateway = f'geo = {{ path = "{edition}" }}\n'
        editor.world.write()
        await editor.begin()
        assert isinstance(await editor.next(), Delta)
        edition.write_bytes(b"not one yet")
        assert isinstance(await editor.next(), Published)
        assert isinstance(await editor.next(), Delta)
        await editor.end()

    asyncio.run(play())


def test_a_folder_without_a_world_is_nothing_to_start_with(tmp_path: Path) -> None:
    with pytest.raises(WorldInvalid):
        asyncio.run(Folder(tmp_path, CONFIG).first())


def test_what_was_replaced_is_freed_in_slices_once_no_call_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("entrepot.gateway.retired.LOOK_S", 0.01)
    accounts = [Account(f"a{number}") for number in range(SLICE)]
    text = World(Path(), [Upstream("main", "http://x.example")], accounts).text()
    files = {"world.toml": text.encode(), "packs/base.toml": BASE_PACK.encode()}

    async def play() -> None:
        compiled: Compiled | None = Compiled.whole(publish_files(files, CONFIG))
        assert compiled is not None
        changed: Compiled | None = compiled.changed(Delta(compiled.revision, Revision(0, 2), gone=(("account", "a0"),)))
        assert changed is not None
        retired = Retired()
        retired.track(compiled.snapshot)
        retired.track(changed.snapshot)
        call = compiled.snapshot
        tables = changed.tables()
        sizes = [len(table) for table in tables]
        retired.retire(changed)
        compiled = changed = None
        await asyncio.sleep(0.05)
        assert [len(table) for table in tables] == sizes
        assert len(call.accounts) == SLICE
        del call
        seen = set()
        async with asyncio.timeout(10):
            while any(tables):
                seen.add(sum(map(len, tables)))
                await asyncio.sleep(0.001)
        assert len(seen) >= 3

    asyncio.run(play())


@pytest.mark.timeout(60)
def test_an_edit_that_names_no_possible_file_does_not_blind_the_watcher(tmp_path: Path) -> None:
    editor, file = Editor(tmp_path), tmp_path / "world.toml"
    bad = file.read_text().replace('packs = ["', 'packs = ["x\\u0000.toml", "')

    async def run() -> None:
        await editor.begin()
        assert editor._changes is not None
        change = asyncio.ensure_future(anext(editor._changes))
        file.write_text(bad)
        await until(lambda: editor.source.problem is not None)
        editor.world.accounts[0].name = "c"
        editor.world.write()
        assert await asyncio.wait_for(change, 20)
        assert editor.source.problem is None

    asyncio.run(run())
