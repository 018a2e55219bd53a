"""Applies an approved proposal, inside the change that approves it: both happen, or neither."""

from __future__ import annotations

from typing import Any

from entrepot.management.access.effects import applied
from entrepot.management.access.instants import iso, milliseconds
from entrepot.management.access.preparing import release_id, releases_etag
from entrepot.management.access.proposal import stale
from entrepot.management.changes import Change
from entrepot.storage import EVERYTHING


async def apply(change: Change, id: str, properties: dict[str, Any]) -> dict[str, Any]:  # noqa: A002
    """The proposal's properties with `appliesAt`. Raises Error CONFLICT when its subject is not what it was."""
    if properties["kind"] == "policyRelease":
        return await _release(change, id, properties)
    row = await change.get(EVERYTHING, properties["subject"])  # whose it is, was asked of the proposal
    if row is None or row.etag != properties["subjectEtag"]:
        raise stale(f"`{properties['subject']}`")
    body = {**row.body, "properties": applied(properties, id, row.kind, row.body["properties"])}
    await change.put(change.draft(row.id, row.kind, body, operator=row.operator, subscription=row.subscription))
    return properties | {"appliesAt": iso(change.at_ms)}


async def _release(change: Change, id: str, properties: dict[str, Any]) -> dict[str, Any]:  # noqa: A002
    if await releases_etag(change) != properties["subjectEtag"]:
        raise stale("the release in force, or what is scheduled,")
    release = release_id(properties["release"])
    effective_ms = milliseconds(properties["effectiveAt"]) if "effectiveAt" in properties else change.at_ms
    applies_ms = max(effective_ms, change.at_ms)
    body = {
        "properties": {**properties["change"], "state": "scheduled", "effectiveAt": iso(applies_ms), "proposal": id}
    }
    await change.put(change.draft(release, "policyRelease", body))
    if applies_ms <= change.at_ms:
        await change.enforce(release)
    return properties | {"appliesAt": iso(applies_ms)}
