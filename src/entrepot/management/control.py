"""The control plane's one state: store, ledger and published snapshot, and the only way to change them together."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from entrepot.ledger.ledger import Ledger
from entrepot.management.changes import Actor, Change
from entrepot.management.publish import Publisher
from entrepot.policy import Program
from entrepot.resources import model as declared

if TYPE_CHECKING:
    from entrepot.snapshot import Revision, Snapshot
    from entrepot.storage import MasterKey, Store

Operation = Literal["deploy", "subscribe"]


class Verdict(msgspec.Struct, frozen=True):
    """`code` and `reason` are those of the first candidate's deciding rule; `place` is that of the ledger's decision."""

    permit: bool
    code: str | None
    reason: Mapping[str, str]
    place: str
    request: str


class Control:
    store: Store
    ledger: Ledger
    data: Path
    publisher: Publisher

    @classmethod
    async def open(cls, data: Path, url: str, master: MasterKey, *, name: str = "control") -> Control:
        """`data` is the folder of `entrepot serve`: the ledger is in `control/`, the CA in `ca/`.

        Drains the outbox, so that state, ledger and publication agree on return.
        """
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError

    @property
    def snapshot(self) -> Snapshot:
        raise NotImplementedError

    @property
    def program(self) -> Program:
        raise NotImplementedError

    @property
    def revision(self) -> Revision:
        raise NotImplementedError

    def change(self, actor: Actor, action: str, **noted: str) -> AbstractAsyncContextManager[Change]:
        """After the block: durable, on the ledger, published. Raises Error, and then nothing is changed."""
        raise NotImplementedError

    async def declared_account(self, id: str, change: Change | None = None) -> declared.Account:  # noqa: A002
        """The account as the snapshot has it, or, within a change, as it will be. Raises Error NOT_FOUND."""
        raise NotImplementedError

    async def judge(
        self,
        operation: Operation,
        peer: str,
        headers: Mapping[str, str],
        account: declared.Account,
        deployment: declared.Deployment | None,
        *,
        actor: Actor,
    ) -> Verdict:
        """Whether at least one candidate is permitted. The decision is durable when this returns.

        Raises Error LEDGER_UNAVAILABLE when that cannot be had.
        """
        raise NotImplementedError
