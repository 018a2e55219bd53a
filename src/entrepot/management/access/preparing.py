"""From a proposal as asked to one that may stand: its subject exists, its proposer may, its change fits.

A policy release is examined before the transaction, on a thread: that takes seconds where there is much to replay.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from entrepot.clock import wall_clock_ms
from entrepot.errors import Code, Detail, Error
from entrepot.management.access import proposal, releases
from entrepot.management.access.effects import applied, check_change
from entrepot.management.access.fitting import fit
from entrepot.management.access.instants import iso
from entrepot.management.access.proposal import KINDS, Proposed
from entrepot.management.access.writing import WITHHELD
from entrepot.management.authorize import INSTANCE, Caller, chain_of, may, not_found, require
from entrepot.management.changes import Change
from entrepot.policy import Program
from entrepot.resources.ids import ACCESS, access_id
from entrepot.resources.model import PackSource, World
from entrepot.storage import EVERYTHING, Row

if TYPE_CHECKING:
    from entrepot.management.control import Control

WRITE: Final = f"{ACCESS}/proposals/write"
TENANT: Final = f"{ACCESS}/proposals/tenant/action"


class Subject(NamedTuple):
    """Whose the proposal is, like what it is about, and the state in view of which it was made."""

    etag: str
    operator: str | None
    subscription: str | None


class Prepared(NamedTuple):
    """`more` is what the system adds to the proposal's properties."""

    proposed: Proposed
    more: Mapping[str, Any]

    async def check(self, change: Change, who: Caller) -> Subject:
        """Raises Error: 404 for a subject that the caller cannot see, 403, or 400 with every mistake of the change."""
        if self.proposed.kind == "policyRelease":
            etag = await releases_etag(change)
            if etag != self.more["base"]:
                raise proposal.stale("the release in force")
            return Subject(etag, WITHHELD, None)
        row = await change.get(who.tenancy, self.proposed.subject)
        if row is None or row.kind not in KINDS[self.proposed.kind].subjects:
            raise _no_subject(self.proposed, row)
        _authorize(who, self.proposed, row)
        properties = row.body.get("properties", {})
        check_change(self.proposed.kind, row.kind, properties, self.proposed.change, change.at_ms)
        as_if = {
            "kind": self.proposed.kind,
            "change": self.proposed.change,
            "decidedBy": {},
            "decidedAt": iso(change.at_ms),
        }
        body = {**row.body, "properties": applied(as_if, "", row.kind, properties)}
        fit(row.kind, row.id, body, only=self.proposed.change.keys() | {"eligibility"})
        return Subject(row.etag, row.operator, row.subscription if KINDS[self.proposed.kind].tenant else None)


def _no_subject(proposed: Proposed, row: Row | None) -> Error:
    if row is None:
        return not_found(proposed.subject)
    kinds = " or ".join(f"an {kind}" for kind in KINDS[proposed.kind].subjects)
    message = f"a proposal of the kind `{proposed.kind}` is about {kinds}"
    return proposal.refused([Detail("InvalidProperty", message, "properties.subject")])


def _authorize(who: Caller, proposed: Proposed, row: Row) -> None:
    chain = chain_of(row)
    if not (KINDS[proposed.kind].tenant and may(who, TENANT, chain)):
        require(who, WRITE, chain)


def settled(proposed: Proposed) -> Proposed:
    """The proposal with the packs of a release as they are now, shipped ones included. Raises Error (400)."""
    if proposed.kind != "policyRelease":
        return proposed
    problems = [
        Detail("InvalidProperty", f"unknown key `{key}`; keys here: `packs`, `warnDays`", f"properties.change.{key}")
        for key in sorted(proposed.change.keys() - {"packs", "warnDays"})
    ]
    warn_days = proposed.change.get("warnDays", 0)
    if type(warn_days) is not int or not 0 <= warn_days <= 3_650:
        fix = "expected a whole number of days, from 0 to 3650"
        problems.append(Detail("InvalidProperty", fix, "properties.change.warnDays"))
    if problems:
        raise proposal.refused(problems)
    packs = releases.stored(releases.pack_sources(proposed.change.get("packs")))
    return proposed._replace(change={**proposed.change, "packs": packs})


async def prepared(control: Control, who: Caller, proposed: Proposed) -> Prepared:
    """Of a proposal that is settled: examined, where it is a release. Raises Error."""
    if proposed.kind != "policyRelease":
        return Prepared(proposed, {})
    require(who, WRITE, (proposal.RELEASES.lower(), INSTANCE))
    rows = await control.store.list(EVERYTHING, "policyRelease")  # the catalogue's
    base, in_force = _etag(rows), control.program
    sources = [PackSource(pack["name"], pack["text"].encode()) for pack in proposed.change["packs"]]
    release, reports = await asyncio.to_thread(
        _examined, sources, in_force, control.world, ledgers(control.data), wall_clock_ms()
    )
    if release == in_force.release:  # also for a later instant: a release is either in force or to come
        raise Error(Code.CONFLICT, f"`{release}` is in force already", name="ReleaseInForce")
    return Prepared(proposed, {"release": release, "base": base, "reports": reports})


def _examined(
    sources: Sequence[PackSource], in_force: Program, world: World, folders: Sequence[Path], now_ms: int
) -> tuple[str, dict[str, Any]]:
    program, findings = releases.compiled(sources, iso(now_ms)[:10])
    return program.release, {
        "check": {"findings": findings},
        "diff": releases.difference(in_force.packs, program.packs, world, now_ms),
        "replay": releases.replayed(program, folders, in_force, now_ms),
    }


def ledgers(data: Path) -> list[Path]:
    """The ledgers on this machine: the control plane's own, of its gateways, and those that are shipped here."""
    return [
        path for path in (data / "control" / "ledger", *sorted((data / "gateways").glob("*/ledger"))) if path.is_dir()
    ]


async def releases_etag(change: Change) -> str:
    """What a proposed release is compared with: the release in force, and those that are to come."""
    return _etag(await change.list(EVERYTHING, "policyRelease"))


def _etag(rows: Sequence[Row]) -> str:
    in_force = [row.name for row in rows if row.body["properties"].get("state") == "inForce"]
    return " ".join([*in_force, *_scheduled(rows)])


def _scheduled(rows: Sequence[Row]) -> list[str]:
    return sorted(
        f"{row.body['properties'].get('effectiveAt')}={row.name}"
        for row in rows
        if row.body["properties"].get("state") == "scheduled"
    )


def release_id(release: str) -> str:
    return access_id("policyRelease", release)
