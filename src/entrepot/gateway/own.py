"""What this machine says of its own gateway, over whatever is published: where it listens."""

from __future__ import annotations

from collections.abc import AsyncIterator

from msgspec.structs import replace

from entrepot.gateway.source import Source
from entrepot.snapshot import Delta, Published, Revision


class Own:
    """A `Source` whose worlds have some values of `[gateway]` of our own. Changes never hold any."""

    def __init__(self, source: Source, values: dict[str, str]) -> None:
        self._source = source
        self._values = values

    @property
    def problem(self) -> str | None:
        return self._source.problem

    async def first(self) -> Published:
        return self._with_own(await self._source.first())

    async def changes(self) -> AsyncIterator[Published | Delta]:
        async for message in self._source.changes():
            yield self._with_own(message) if isinstance(message, Published) else message

    def look(self) -> None:
        self._source.look()

    def running(self, revision: Revision, ready: bool) -> None:
        self._source.running(revision, ready)

    def _with_own(self, published: Published) -> Published:
        world = published.world
        return replace(published, world=replace(world, gateway=replace(world.gateway, **self._values)))
