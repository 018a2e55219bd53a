"""What requests are decided by, and when it last changed: one look at the database for each request, or for several.

Whoever keeps something that was read keeps the mark with which it was read, and reads again where that is another.
"""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple

from entrepot.resources.ids import SETTINGS, access_id
from entrepot.storage import Store

_PRINCIPALS: Final = access_id("principal", "").lower()

Mark = tuple[int, int]


class Marks(NamedTuple):
    """The revisions as of the last looks that found the settings changed, and principals or assignments.

    The first look finds everything changed, and so does the one after a restore.
    """

    settings: Mark
    access: Mark


class Recent:
    """For one event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._turn = asyncio.Lock()
        self._begun = self._answered = 0  # looks
        self._at: Mark = (0, -1)
        self._marks = Marks(self._at, self._at)

    async def look(self) -> Marks:
        """As of now, or later: whoever waits while another one looks shares the look that comes next."""
        begun = self._begun
        async with self._turn:
            if self._answered <= begun:
                self._begun += 1
                await self._look()
                self._answered = self._begun
            return self._marks

    async def _look(self) -> None:
        at, touched = await self._store.touched_since(self._at[1])
        if at == self._at:
            return
        anew = touched is None or at[0] != self._at[0]
        settings = anew or SETTINGS.lower() in (touched or ())
        access = anew or any(map(concerns_access, touched or ()))
        self._at = at
        self._marks = Marks(at if settings else self._marks.settings, at if access else self._marks.access)


def concerns_access(resource: str) -> bool:
    """Whether an id in lower case is a principal's or an assignment's."""
    return "/microsoft.authorization/" in resource or resource.startswith(_PRINCIPALS)
