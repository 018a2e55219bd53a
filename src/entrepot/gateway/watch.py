"""Watching a world's files for edits: an edit is seen when the files have been quiet for a while."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path

from entrepot.resources.folder import Mark, fingerprint, inside, named_packs

POLL_S = 0.1
QUIET_S = 0.3


async def edits(folder: Path, named: Callable[[], Iterable[str]], served: Mark) -> AsyncIterator[None]:
    """Yields once per edit since `served`, `QUIET_S` after its last change. Swapping a symbolic link is one edit.

    `named` gives the files that the world names beside its own. A folder that is gone for a while is no edit yet.
    """
    changed = served
    quiet_s = 0.0
    while True:
        await asyncio.sleep(POLL_S)
        try:
            # Missing files are left out, so that naming fewer of them is no edit.
            now = tuple(mark for mark in fingerprint(folder, named()) if mark[1])
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
