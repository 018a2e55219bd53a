"""The control plane's one state: store, ledger and published snapshot, and the only way to change them together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from entrepot.clock import wall_clock_ms
from entrepot.errors import Code, Error
from entrepot.ledger import entries
from entrepot.ledger.commitments import commit
from entrepot.ledger.faults import LedgerUnavailable
from entrepot.ledger.ledger import Ledger
from entrepot.management.changes import ITSELF, Actor, Change
from entrepot.management.judgement import Asked, Operation, Verdict, Writing, consider, entry_of
from entrepot.management.keyring import SIGNER
from entrepot.management.outbox import Outbox
from entrepot.management.publish import Publisher
from entrepot.management.touched import Step, Touched, declared_account, following
from entrepot.management.world import World, load, refused
from entrepot.origin.resolve import egress_networks
from entrepot.policy import Program
from entrepot.resources import model as declared
from entrepot.resources.documents import milliseconds
from entrepot.resources.problems import WorldInvalid
from entrepot.snapshot import Compiled, Published, Revision, Snapshot
from entrepot.storage import EVERYTHING, MasterKey, Store, Transaction
from entrepot.storage.writer import to_its_end

TICK_S: Final = 0.5

# The change that a task's changes are a part of.
_SHARED: Final[ContextVar[Change | None]] = ContextVar("shared change", default=None)

log = logging.getLogger(__name__)


class _Made(NamedTuple):
    """A change on its way: `number` is its outbox record's."""

    step: Step
    compiled: Compiled
    number: int
    entry: bytes


class Control:
    """Made by `open`. For one event loop."""

    def __init__(self, store: Store, ledger: Ledger, data: Path, outbox: Outbox) -> None:
        self.store = store
        self.ledger = ledger
        self.data = data
        self.problem: str | None = None
        self._outbox = outbox
        self._turn = asyncio.Lock()
        self._behind = False  # committed changes may be missing in the ledger, or in what is published
        self._enforced: dict[str, int] = {}  # releases that could not take effect, and when that was tried last
        self._places: dict[int, str] = {}  # where changes stand in the ledger, as far as that is not noted
        self._ticking: asyncio.Task[None] | None = None
        self._compiled: Compiled
        self._world: World
        self.publisher: Publisher

    @classmethod
    async def open(cls, data: Path, url: str, master: MasterKey, *, name: str = "control") -> Control:
        """`data` is the folder of `entrepot serve`: the ledger is in `control/`, the CA in `ca/`.

        Drains the outbox, so that state, ledger and publication agree on return. Raises Error, LedgerRefused, OSError.
        """
        store = await Store.open(url, master)
        try:
            ledger = await asyncio.to_thread(Ledger.open, data / "control", key_name=name)
            outbox = await asyncio.to_thread(Outbox, store, ledger, data / "control", name)
        except BaseException:
            await store.close()
            raise
        control = cls(store, ledger, data, outbox)
        try:
            ledger.start()
            await control._begin()
        except BaseException:
            await control.close()
            raise
        return control

    async def close(self) -> None:
        """Changes under way end first; nothing may be asked of it any more."""
        if self._ticking is not None:
            self._ticking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._ticking
        async with self._turn:
            await self._note()
            await self.ledger.close()
            await self.store.close()

    @property
    def snapshot(self) -> Snapshot:
        """As published, but with the settings' own gateway in it."""
        return self._compiled.snapshot

    @property
    def program(self) -> Program:
        return self.snapshot.program

    @property
    def revision(self) -> Revision:
        return self._compiled.revision

    @property
    def published(self) -> Published:
        """The whole, with the settings' own gateway in it."""
        return self._world.published(self.revision)

    @property
    def world(self) -> declared.World:
        """As published."""
        return self.published.world

    @property
    def rows(self) -> Store | Change:
        """To read from: the change that the task's changes are a part of, which sees its own writes; else the store."""
        return _SHARED.get() or self.store

    @property
    def authority(self) -> Path:
        """The certificate authority that gateways are told of."""
        return self.data / "ca" / "ca.pem"

    @property
    def owner(self) -> str:
        """Whose its changes are, where several control planes share a database: the key that signs its ledger."""
        return self._outbox.owner

    @property
    def ready(self) -> bool:
        """Whether changes can be made now."""
        return self.ledger.available and not self._behind

    def change(self, actor: Actor, action: str, **noted: str) -> AbstractAsyncContextManager[Change]:
        """After the block: durable, on the ledger, published. Raises Error, and then nothing is changed.

        One at a time: inside the block nothing may be waited for but the change itself. The one Error after which the
        change did happen is LEDGER_UNAVAILABLE with the name `ChangeNotRecorded`: it takes effect when it is recorded.
        """
        shared = _SHARED.get()
        return self._change(actor, action, noted) if shared is None else contextlib.nullcontext(shared)

    @asynccontextmanager
    async def shared(self, actor: Actor, action: str) -> AsyncIterator[Change]:
        """One change for all that this task begins within: they are made together, or none of them."""
        async with self._change(actor, action, {}) as change:
            token = _SHARED.set(change)
            try:
                yield change
            finally:
                _SHARED.reset(token)
                written = await asyncio.gather(*change.judged, return_exceptions=True)
            for each in written:
                if isinstance(each, BaseException):
                    raise each

    @asynccontextmanager
    async def _change(self, actor: Actor, action: str, noted: Mapping[str, str]) -> AsyncIterator[Change]:
        self._refuse_unready()
        async with self._turn, AsyncExitStack() as opened:
            self._refuse_unready()
            transaction = await opened.enter_async_context(self.store.change())
            await to_its_end(self._follow(transaction))
            await transaction.hold((), (), ())  # nothing yet; what it reads, it reads once
            change = Change(transaction, actor, action, noted)
            yield change
            # From here on nobody's going away stops it half-way: a committed change is recorded and published.
            await to_its_end(self._complete(change, transaction, opened))

    def _refuse_unready(self) -> None:
        if not self.ready:
            why = self.ledger.problem or self.problem or "an earlier change is not recorded yet"
            what = f"nothing can be changed now, since it could not be recorded: {why}"
            raise Error(Code.LEDGER_UNAVAILABLE, what, retry_after_s=1)

    async def _complete(self, change: Change, transaction: Transaction, opened: AsyncExitStack) -> None:
        """`opened` holds the transaction: closed here it is committed, and given up if this raises before."""
        made = await self._prepare(change, transaction) if change.touched else None
        try:
            await opened.aclose()
        except BaseException:
            # A commit of which it is not known whether it happened. Whoever looks next finds out (`_follow`).
            self._behind = self._behind or made is not None
            raise
        if made is not None:
            await self._record(made)

    async def _prepare(self, change: Change, transaction: Transaction) -> _Made:
        """Read, check and compile the world with the change; put the change into the outbox."""
        # `_follow` made sure that what is published is what is committed, and nobody else can have written since.
        revision = Revision(self.revision.epoch, self.revision.n + 1)
        step, compiled = await self._compile(transaction, change.touched, revision)
        identity, ids = self._outbox.new_id(), change.ids()
        entry = change.entry(identity, revision.epoch, revision.n)
        number = await transaction.record(identity, change.at_ms, entry, ids)
        if number != revision.n:
            raise RuntimeError(f"the outbox gave number {number} to change {revision.n}")
        change.tell(identity, number, entry)
        return _Made(step, compiled, number, entry)

    async def _compile(self, transaction: Transaction, touched: Touched, to: Revision) -> tuple[Step, Compiled]:
        step = await following(self._world, transaction, touched, self.revision, to)
        try:
            if step.delta is not None:
                return step, self._compiled.changed(step.delta)
            published = step.world.published(to)
            return step, await asyncio.to_thread(Compiled.whole, published)
        except WorldInvalid as invalid:
            raise refused(invalid.problems, Code.CONFLICT, "the change does not fit what is there") from invalid

    async def _record(self, made: _Made) -> None:
        """The change is committed: bring it to the ledger, then into force."""
        try:
            place = await self.ledger.append(made.entry)
        except BaseException as error:
            self._behind = True
            if not isinstance(error, LedgerUnavailable):
                raise
            what = "the change is made but not recorded yet, and takes effect as soon as it is"
            raise Error(Code.LEDGER_UNAVAILABLE, what, name="ChangeNotRecorded", retry_after_s=1) from error
        self._take(made.step, made.compiled)
        self._places[made.number] = str(place)

    async def _note(self) -> None:
        """Where changes stand. Nobody waits for this: without it, the next start finds the entries where they stand."""
        if not self._places:
            return
        places, self._places = self._places, {}
        try:
            await self.store.placed(places)
        except Exception as error:
            self._behind = True
            log.exception("where changes stand could not be noted", extra={"fields": {"problem": str(error)}})

    def _take(self, step: Step, compiled: Compiled) -> None:
        before = self._compiled.snapshot.program.release
        self._world, self._compiled = step.world, compiled
        self.publisher.publish(step, compiled.revision)
        if compiled.snapshot.program.release != before:
            self._announce()

    def _announce(self) -> None:
        """The policy that this process decides by: its entry stands before every decision that names it."""
        snapshot = self.snapshot
        packs = tuple(entries.Pack(pack.data, pack.name) for pack in snapshot.packs)
        release = entries.Release(wall_clock_ms(), packs, snapshot.program.release, snapshot.revision.number())
        self.ledger.outcome(entries.encode(release))

    async def _begin(self) -> None:
        await self._outbox.drain()
        async with self.store.change() as transaction:
            key = await transaction.secret(SIGNER)
            if key is None:
                key = Ed25519PrivateKey.generate().private_bytes_raw()
                await transaction.put_secret(SIGNER, key)
        self.publisher = Publisher(Ed25519PrivateKey.from_private_bytes(key))
        async with self.store.change() as transaction:
            await self._reload(transaction)
        self._announce()
        self._ticking = asyncio.create_task(self._tick())

    async def _reload(self, transaction: Transaction) -> None:
        """All anew, as at the start."""
        revision = Revision(*await transaction.revision())
        world = await load(transaction)
        try:
            compiled = await asyncio.to_thread(Compiled.whole, world.published(revision))
        except WorldInvalid as invalid:
            raise refused(invalid.problems, Code.NOT_READY, "what the database holds does not compile") from invalid
        self._world, self._compiled = world, compiled
        self.publisher.publish(Step(world, None, frozenset()), revision)

    async def _follow(self, transaction: Transaction) -> None:
        """Catch up with what other control planes over this database committed. The writer's lock is held."""
        now = Revision(*await transaction.revision())
        if now == self.revision:
            return
        if now.epoch != self.revision.epoch or now.n < self.revision.n:
            await self._reload(transaction)
            self._announce()
            return
        touched: dict[str, None] = {}
        for recorded in await self.store.since(self.revision.n):
            touched.update((key.lower(), None) for key in recorded.touched)
        rows = {key: await transaction.get(EVERYTHING, key) for key in touched}
        self._take(*await self._compile(transaction, rows, now))

    async def _tick(self) -> None:
        """What nobody asks for: others' changes, an outbox that waits, releases whose time has come."""
        while True:
            await asyncio.sleep(TICK_S)
            try:
                await self._look()
                self.problem = None
            except Exception as error:
                if self.problem != str(error):
                    fields, trace = {"problem": str(error)}, not isinstance(error, Error)
                    log.error("the control plane cannot keep up", exc_info=trace, extra={"fields": fields})
                self.problem = str(error)

    async def _look(self) -> None:
        await self._note()
        epoch, n = await self.store.revision()
        if self._behind or Revision(epoch, n) != self.revision:
            async with self._turn:
                await to_its_end(self._catch_up())
        due = wall_clock_ms()
        # By their instants: after an outage several may be due, and the last one is to stay in force.
        for release, at_ms in sorted(self._world.releases.items(), key=lambda each: each[1]):
            if at_ms <= due and self._enforced.get(release, 0) + 60_000 < due:
                self._enforced[release] = due
                await self._take_effect(release, at_ms)

    async def _catch_up(self) -> None:
        if self._behind:
            await self._outbox.drain()
        async with self.store.change() as transaction:
            await self._follow(transaction)
        self._behind = False

    async def _take_effect(self, release: str, at_ms: int) -> None:
        """Unless another control plane was first; one that comes after a release of a later instant is superseded."""
        async with self.change(ITSELF, "Entrepot.Access/policyReleases/takeEffect") as change:
            rows = {row.id: row.body["properties"] for row in await change.list(EVERYTHING, "policyRelease")}
            if rows.get(release, {}).get("state") != "scheduled":
                return
            in_force = (each for each in rows.values() if each.get("state") == "inForce")
            late = any((milliseconds(each.get("effectiveAt")) or 0) > at_ms for each in in_force)
            await (change.supersede(release) if late else change.enforce(release))

    async def declared_account(self, id: str, change: Change | None = None) -> declared.Account:  # noqa: A002
        """The account as the snapshot has it, or, within a change, as it will be. Raises Error NOT_FOUND."""
        if change is not None:
            found = await declared_account(change.transaction, self._world, id.lower())
        else:
            known = self.snapshot.accounts.get(id.rpartition("/")[2].lower())
            found = known.given if known is not None else None
        if found is None:
            raise Error(Code.NOT_FOUND, f"there is no account `{id}`", name="ResourceNotFound", param=id)
        return found

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
        """Whether at least one candidate is permitted. The decision is durable when this returns; within a batch, one
        that permits is so before the batch is committed, and where it stands is not told: many of them share a write.

        `headers` have lower-case names. Raises Error LEDGER_UNAVAILABLE when that cannot be had, CONFLICT for an
        account whose subscription has no organization.
        """
        snapshot = self.snapshot
        origins, header = snapshot.origins, headers.get(snapshot.origin_header)
        origin = origins.resolve(peer, header, egress_networks(account.egress))
        asked = Asked(
            operation, self._owner(account), account, deployment, origin, wall_clock_ms(), self._leaves_from()
        )
        considered = consider(asked, snapshot.program, self._world.catalogue)
        permit = any(each.decision.permit for each in considered)
        told = None if permit or not considered else considered[0].decision
        code = None if permit else (told.code if told is not None and told.code else Code.ACCESS_DENIED.label)
        personal = entries.Personal(origins.address(peer, header), actor.principal)
        private, commitment = commit(personal)
        request = actor.request or str(uuid.uuid4())
        writing = Writing(snapshot.program.release, snapshot.revision.number(), request, commitment, code)
        recorded = self._decided(entry_of(asked, considered, writing), private, permit=permit)
        if permit and (shared := _SHARED.get()) is not None:
            shared.judged.append(asyncio.ensure_future(recorded))
            return Verdict(permit, code, {}, "", request)
        return Verdict(permit, code, told.reason if told is not None else {}, await recorded, request)

    async def _decided(self, entry: bytes, private: bytes, *, permit: bool) -> str:
        """Where the decision stands, durable."""
        try:
            place = str(await self.ledger.decide(entry, private))
        except LedgerUnavailable as unavailable:
            what = "the decision cannot be recorded now, and nothing is decided unrecorded"
            raise Error(Code.LEDGER_UNAVAILABLE, what, retry_after_s=1) from unavailable
        if permit:
            self.ledger.outcome(entries.encode(entries.Outcome(wall_clock_ms(), place)))
        return place

    def _leaves_from(self) -> tuple[str, ...]:
        """The territories of the gateways; before there is one, what the settings say."""
        found = {gateway.given.territory for gateway in self._world.gateways.values()}
        return tuple(sorted(found)) or (self._world.catalogue.gateway.territory,)

    def _owner(self, account: declared.Account) -> declared.Organization:
        subscription = self._world.subscriptions.get(account.subscription)
        found = self._world.organizations.get(subscription.organization) if subscription is not None else None
        if found is None:
            raise Error(Code.CONFLICT, f"the subscription `{account.subscription}` has no organization")
        return found
