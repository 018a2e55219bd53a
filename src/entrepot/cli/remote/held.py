"""What a control plane holds, as it lists it: rows by kind and id, and the world that they make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from entrepot.cli.remote.connection import ACCESS, Connection
from entrepot.resources import model as declared
from entrepot.resources.documents import Document, Reading
from entrepot.resources.ids import parent_account, part
from entrepot.resources.problems import WorldInvalid

_CATALOGUE = {
    "site": "sites",
    "operator": "operators",
    "region": "regions",
    "provider": "providers",
    "upstream": "upstreams",
    "model": "models",
    "organization": "organizations",
}


class Held(NamedTuple):
    """One row. `digests` are of its secrets, by their names."""

    document: Document
    etag: str
    digests: Mapping[str, str]

    @property
    def properties(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.document.body.get("properties", {})
        return found


class State:
    """Rows by kind, then by id in lower case, and what they say in the terms of a world."""

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self.rows: dict[str, dict[str, Held]] = {}
        for row in rows:
            document = Document(row["kind"], row["id"], row["name"], row["body"])
            held = Held(document, row["etag"], row.get("digests", {}))
            self.rows.setdefault(row["kind"], {})[row["id"].lower()] = held
        self._reading = Reading()

    @classmethod
    def of(cls, connection: Connection) -> State:
        return cls(connection.all(f"{ACCESS}/declared"))

    def of_kind(self, kind: str) -> Mapping[str, Held]:
        return self.rows.get(kind, {})

    def struct(self, held: Held) -> Any:
        """Of a resource of the catalogue, or an organization; None where this release cannot read it."""
        return self._reading.resource(held.document)

    def subscription(self, held: Held) -> declared.Subscription | None:
        return self._reading.subscription(held.document)

    def account(self, held: Held, deployments: Iterable[Held] = ()) -> declared.Account | None:
        """An account of a subscription that is disabled is suspended, whatever its own state."""
        owner = self.of_kind("subscription").get(f"/subscriptions/{part(held.document.id, 'subscriptions')}".lower())
        keys = declared.Keys(held.digests.get("key1", ""), held.digests.get("key2"))
        inside = [each.document for each in deployments]
        contract = self.subscription(owner) if owner is not None else None
        found = self._reading.account(held.document, inside, contract, keys)
        disabled = owner is not None and owner.properties.get("state", "Enabled") != "Enabled"
        return msgspec.structs.replace(found, state="suspended") if found is not None and disabled else found

    def gateway(self, name: str | None) -> declared.Gateway:
        """What a gateway is given: its row over the settings of all; of none, the settings alone."""
        settings = next(iter(self.of_kind("settings").values()), None)
        rows = {each.document.name: each for each in self.of_kind("gateway").values()}
        row = rows.get(name) if name is not None else None
        found = self._reading.gateway(settings and settings.document, row and row.document)
        return found or declared.Gateway()

    def gateways(self) -> list[str]:
        return [each.document.name for each in self.of_kind("gateway").values()]

    def release(self) -> Held | None:
        """The policy release in force."""
        return next(iter(self.of_kind("policyRelease").values()), None)

    def packs(self) -> tuple[declared.PackSource, ...]:
        release = self.release()
        listed = release.properties.get("packs", ()) if release is not None else ()
        return tuple(declared.PackSource(each["name"], each["text"].encode()) for each in listed)

    def warn_days(self) -> int:
        settings = next(iter(self.of_kind("settings").values()), None)
        found: int = (settings.properties if settings else {}).get("warnDays", declared.World().warn_days)
        return found

    def world(self, gateway: str | None = None) -> declared.World:
        """All of it, with the gateway of that name. Raises WorldInvalid where this release cannot read it."""
        deployments: dict[str, list[Held]] = {}
        for id_, each in self.of_kind("deployment").items():
            deployments.setdefault(parent_account(id_), []).append(each)
        found = {
            field: tuple(self.struct(each) for each in self.of_kind(kind).values())
            for kind, field in _CATALOGUE.items()
        }
        subscriptions = tuple(self.subscription(each) for each in self.of_kind("subscription").values())
        accounts = tuple(self.account(each, deployments.get(id_, ())) for id_, each in self.of_kind("account").items())
        given = self.gateway(gateway)
        if self._reading.sheet.errors:
            raise WorldInvalid(self._reading.problems())
        return declared.World(
            gateway=given,
            subscriptions=tuple(each for each in subscriptions if each is not None),
            accounts=tuple(each for each in accounts if each is not None),
            packs=self.packs(),
            warn_days=self.warn_days(),
            **found,
        )
