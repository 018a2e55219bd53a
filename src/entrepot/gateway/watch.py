"""A world's folder as a source of publications: an edit is seen when the files have been quiet for a while."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path

import msgspec

from entrepot.config import Config
from entrepot.resources.folder import Mark, fingerprint, inside, named_packs, read_world
from entrepot.resources.problems import WorldInvalid
from entrepot.snapshot import Delta, Published, Revision, applied, difference, publish_files

log = logging.getLogger(__name__)

POLL_S = 0.1
QUIET_S = 0.3
AGAIN_S = 5.0


class Offer(msgspec.Struct, frozen=True):
    """What was read from the files, and the geographic edition that lay beside them."""

    published: Published
    geo: Mark


class Folder:
    """Revisions are of epoch 0 and count what was read since the start."""

    def __init__(self, folder: Path, config: Config) -> None:
        self.problem: str | None = None
        self._folder = folder
        self._config = config
        self._watched: set[str] = set()
        self._mark: Mark = ()
        self._served: Offer | None = None
        self._offered: Offer | None = None
        self._wanted = asyncio.Event()

    async def first(self) -> Published:
        """Raises WorldInvalid for files that declare no world."""
        self._offered = await self._read()
        return self._offered.published

    def look(self) -> None:
        self._wanted.set()

    def running(self, revision: Revision, ready: bool) -> None:  # noqa: ARG002 - of no use to files
        if self._offered is not None and self._offered.published.revision == revision:
            self._served, self._offered = self._offered, None

    async def changes(self) -> AsyncIterator[Published | Delta]:
        watching = asyncio.create_task(self._watch())
        try:
            while True:
                await self._wanted.wait()
                self._wanted.clear()
                try:
                    offer = await self._read()
                    message = await asyncio.to_thread(self._shortest, offer)
                except (WorldInvalid, OSError) as error:
                    self.problem = str(error)
                    log.error("world is invalid; the one before stays", extra={"fields": {"problem": self.problem}})
                    continue
                except Exception:  # an edge: whatever is wrong with an edit, the world before goes on
                    self.problem = "the files could not be read; the log says more"
                    log.exception("world could not be read; the one before stays")
                    continue
                self.problem = None
                yield message
        finally:
            watching.cancel()

    async def _watch(self) -> None:
        while True:
            try:
                async for _ in edits(self._folder, lambda: self._watched, self._mark):
                    self._wanted.set()
            except Exception:  # an edge: nobody else would see the next edit
                log.exception("the files cannot be watched; it is tried again")
            await asyncio.sleep(AGAIN_S)

    async def _read(self) -> Offer:
        files = read_world(self._folder)
        self._watched = watched(files)
        self._mark = present(self._folder, self._watched)
        before = 0 if self._served is None else self._served.published.revision.n
        published = await asyncio.to_thread(publish_files, files, self._config, Revision(0, before + 1))
        return Offer(published, edition_mark(published))

    def _shortest(self, offer: Offer) -> Published | Delta:
        """A Delta where only clients changed; else all of it. Remembers what is offered."""
        served = self._served
        if (
            served is None
            or served.geo != offer.geo
            or (delta := difference(served.published, offer.published)) is None
        ):
            self._offered = offer
            return offer.published
        # What did not change is kept as it was: the parent holds it too, and a large world need not be there twice.
        self._offered = Offer(applied(served.published, delta), offer.geo)
        return delta


def edition_mark(published: Published) -> Mark:
    """Changes when the file of the geographic edition does."""
    geo = published.world.gateway.geo
    if geo is None:
        return ()
    path = Path(geo.path)
    try:
        stat = path.stat()
    except OSError:
        return ((geo.path, 0, 0, 0),)
    return ((geo.path, stat.st_ino, stat.st_size, stat.st_mtime_ns),)


def present(folder: Path, named: Iterable[str]) -> Mark:
    """The fingerprint without files that are not there, so that naming fewer of them is no edit."""
    return tuple(mark for mark in fingerprint(folder, named) if mark[1])


async def edits(folder: Path, named: Callable[[], Iterable[str]], served: Mark) -> AsyncIterator[None]:
    """Yields once per edit since `served`, `QUIET_S` after its last change. Swapping a symbolic link is one edit.

    `named` gives the files that the world names beside its own. A folder that is gone for a while is no edit yet.
    """
    changed = served
    quiet_s = 0.0
    while True:
        await asyncio.sleep(POLL_S)
        try:
            now = present(folder, named())
        except OSError:
            continue
        if now != changed:
            changed, quiet_s = now, 0.0
        elif now != served:
            quiet_s += POLL_S
            if quiet_s >= QUIET_S:
                served = now
                yield


def watched(files: Mapping[str, bytes]) -> set[str]:
    """The files of a world and the packs that they name, also those that are not there yet."""
    return {*files, *(pack for data in files.values() for pack in named_packs(data) if inside(pack))}
