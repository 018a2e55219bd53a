"""Where a gateway's snapshots come from: a folder of files, or a control plane."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from entrepot.snapshot import Delta, Published, Revision


class Source(Protocol):
    """Read by one gateway's parent: `first` once, then `changes`."""

    @property
    def problem(self) -> str | None:
        """What is wrong with what the source has now, in words; what was published before stays in force."""

    async def first(self) -> Published:
        """What to start with. Raises WorldInvalid or Error when there is nothing to start with."""

    def changes(self) -> AsyncIterator[Published | Delta]:
        """Each change once, in order; never ends by itself and never raises for what heals.

        When the next one is asked for, `running` has told whether the one before was taken over. If not, the next one
        is a Published, or a Delta to what runs.
        """

    def look(self) -> None:
        """SIGHUP: look now, and yield what there is even if it is the same: certificates and keys in files may not be.

        May be called at any time, before `first` has ended too.
        """

    def running(self, revision: Revision, ready: bool) -> None:
        """The workers are given `revision`, which compiled; `ready` as the readiness probe has it.

        Told after every attempt to take something over, and whenever a worker begins or ceases to serve.
        """
