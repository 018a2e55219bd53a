"""What a first start creates: keys, an administrator, an operator and its first customer, Azure's regions, a policy.

All of it is one change. Killed before it, the next start begins anew; killed after it, the next start finds it done.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import tomli

from entrepot.errors import Code, Error
from entrepot.management import secret
from entrepot.management.access.releases import compiled, pack_sources, stored
from entrepot.management.authority import Site
from entrepot.management.changes import Actor, Change
from entrepot.management.control import Control
from entrepot.management.issuing import TOKEN_KEY, data_audiences, generate_key, issuer_of, public_keys
from entrepot.management.roles import DEFINITIONS, OWNER
from entrepot.resources.ids import SETTINGS, access_id, subscription_id
from entrepot.resources.model import UNKNOWN
from entrepot.storage import EVERYTHING, Row

ADMINISTRATOR = "administrator"
OPERATOR = "local"
ORGANIZATION = "local"
GATEWAY = "gateway-1"
SECRET_FILE = "admin.secret"  # noqa: S105 - the name of a file
PACKS = ("entrepot:base",)
_SYSTEM = Actor("entrepot", "entrepot", "", "")

log = logging.getLogger(__name__)


class Place(NamedTuple):
    """Where the local gateway listens, and where this machine is; `territory` is a code or `unknown`."""

    listen: str = "127.0.0.1:8080"
    admin_listen: str = "127.0.0.1:9090"
    territory: str = UNKNOWN


class Begun(NamedTuple):
    """`fresh`: whether this was the first start. `client_id` is the administrator's."""

    client_id: str
    fresh: bool


async def begin(control: Control, site: Site, place: Place) -> Begun:
    """Make what is not there yet. Raises Error where the folder or the database cannot be written."""
    settings = await control.store.get(EVERYTHING, SETTINGS)
    if settings is not None and await control.store.secret(TOKEN_KEY) is not None:
        await _keep_issuer(control, site)
        return Begun(await administrator(control), fresh=False)
    path = control.data / SECRET_FILE
    shown, made = _secret_file(path)
    async with control.change(_SYSTEM, "Entrepot.Access/settings/write") as change:
        begun = await change.secret(TOKEN_KEY) is not None
        if not begun:
            await _fill(change, site, place, shown)
    if begun and made:  # another control plane over the same database was first: its administrator is the one
        path.unlink()
    return Begun(await administrator(control), fresh=not begun)


async def administrator(control: Control) -> str:
    """The client id of the principal that the first start made; empty where it was deleted since."""
    row = await control.store.get(EVERYTHING, access_id("principal", ADMINISTRATOR))
    return str(row.body["properties"]["appId"]) if row is not None else ""


async def listen_at(control: Control, listen: str | None, admin_listen: str | None) -> Row:
    """The local gateway's row, changed where it shall listen elsewhere than it did."""
    identity = access_id("gateway", GATEWAY)
    wanted = {key: value for key, value in (("listen", listen), ("adminListen", admin_listen)) if value is not None}
    held = await control.store.get(EVERYTHING, identity)
    if held is not None and wanted.items() <= held.body["properties"].items():
        return held
    async with control.change(_SYSTEM, "Entrepot.Access/gateways/write") as change:
        held = await change.get(EVERYTHING, identity)
        properties = {**(held.body["properties"] if held is not None else {}), **wanted}
        return await change.put(change.draft(identity, "gateway", {"properties": properties}, operator=""))


async def _fill(change: Change, site: Site, place: Place, shown: str) -> None:
    key = generate_key()
    await change.put(change.draft(SETTINGS, "settings", {"properties": {"issuer": _issuer(site, public_keys(key))}}))
    await change.put_secret(TOKEN_KEY, key)
    for kind, name, properties in _catalogue():
        operator = name if kind == "operator" else None
        await change.put(change.draft(access_id(kind, name), kind, {"properties": properties}, operator=operator))
    await _fill_operator(change, place)
    await _fill_administrator(change, shown)
    sources = pack_sources(list(PACKS))
    program, _ = compiled(sources, datetime.now(UTC).date().isoformat())
    release = access_id("policyRelease", program.release)
    body = {"properties": {"packs": stored(sources), "state": "scheduled", "reason": "the first start"}}
    await change.put(change.draft(release, "policyRelease", body))
    await change.enforce(release)


async def _fill_operator(change: Change, place: Place) -> None:
    """`local`, the region that its own upstreams are in, its gateway, and itself as a customer with a subscription."""
    name = "Local operator"
    subscription = str(uuid.uuid4())
    documents: list[tuple[str, str, dict[str, Any], str | None]] = [
        ("operator", OPERATOR, {"legalName": name, "territory": place.territory}, OPERATOR),
        ("region", "local", {"displayName": "Local", "territory": place.territory, "operator": OPERATOR}, None),
        (
            "gateway",
            GATEWAY,
            {
                "listen": place.listen,
                "adminListen": place.admin_listen,
                "territory": place.territory,
                "accessLog": "on",
            },
            "",
        ),
        (
            "organization",
            ORGANIZATION,
            {
                "legalName": name,
                "territory": place.territory,
                "entityType": "enterprise",
                "kyc": "approved",
                "screening": "clear",
                "operator": OPERATOR,
            },
            OPERATOR,
        ),
    ]
    for kind, each, properties, operator in documents:
        await change.put(change.draft(access_id(kind, each), kind, {"properties": properties}, operator=operator))
    contract = {
        "displayName": "Local",
        "organization": ORGANIZATION,
        "operator": OPERATOR,
        "channel": "cloud",
        "state": "Enabled",
        "quotaId": "EnterpriseAgreement_2014-09-01",
    }
    await change.put(
        change.draft(
            subscription_id(subscription),
            "subscription",
            {"properties": contract},
            operator=OPERATOR,
            subscription=subscription,
        )
    )


async def _fill_administrator(change: Change, shown: str) -> None:
    client = str(uuid.uuid4())
    identity = access_id("principal", ADMINISTRATOR)
    properties = {"appId": client, "displayName": "Administrator", "state": "Enabled"}
    await change.put(change.draft(identity, "principal", {"properties": properties}, operator=""))
    await change.put_secret(f"{identity.lower()}/secret", secret.kept(shown, change.at_ms))
    assignment = {
        "roleDefinitionId": DEFINITIONS + OWNER,
        "principalId": client,
        "principalType": "ServicePrincipal",
        "scope": "/",
    }
    await change.put(
        change.draft(
            f"/providers/Microsoft.Authorization/roleAssignments/{uuid.uuid4()}",
            "roleAssignment",
            {"properties": assignment},
            operator="",
        )
    )


async def _keep_issuer(control: Control, site: Site) -> None:
    """The issuer is called as this control plane is; where that was changed, gateways learn it."""
    settings = await control.store.get(EVERYTHING, SETTINGS)
    if settings is None or settings.body["properties"].get("issuer", {}).get("url") == issuer_of(site.url):
        return
    async with control.change(_SYSTEM, "Entrepot.Access/settings/write") as change:
        held = await change.get(EVERYTHING, SETTINGS)
        key = await change.secret(TOKEN_KEY)
        if held is None or key is None:
            raise Error(Code.NOT_READY, "the control plane's settings are gone; restore them from a backup")
        before = held.body["properties"].get("issuer", {}).get("url")
        properties = {**held.body["properties"], "issuer": _issuer(site, public_keys(key))}
        await change.put(change.draft(SETTINGS, "settings", {**held.body, "properties": properties}))
    # Another control plane over this database may go on by the name before, and its tokens are refused from here on.
    told = {"before": before, "now": issuer_of(site.url)}
    log.warning("tokens are issued in another name: `--url` is the same at all control planes", extra={"fields": told})


async def renew_token_key(control: Control, site: Site) -> None:
    """Tokens are signed by a new key from here on; those that are out stay valid, but not those of the key before."""
    async with control.change(_SYSTEM, "Entrepot.Access/settings/newTokenKey") as change:
        held = await change.get(EVERYTHING, SETTINGS)
        key = await change.secret(TOKEN_KEY)
        if held is None or key is None:
            raise Error(Code.NOT_READY, "the control plane's settings are gone; restore them from a backup")
        fresh = generate_key()
        await change.put_secret(TOKEN_KEY, fresh)
        keys = {"keys": [*public_keys(fresh)["keys"], *public_keys(key)["keys"]]}
        properties = {**held.body["properties"], "issuer": _issuer(site, keys)}
        await change.put(change.draft(SETTINGS, "settings", {**held.body, "properties": properties}))


def _issuer(site: Site, keys: dict[str, Any]) -> dict[str, Any]:
    return {"url": issuer_of(site.url), "keys": keys, "audiences": data_audiences()}


def _catalogue() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Operators and regions of the data file `azure-regions.toml`."""
    listed = tomli.loads((files("entrepot") / "management" / "azure-regions.toml").read_text(encoding="utf-8"))
    for each in listed["operator"]:
        yield "operator", each["name"], {"legalName": each["legal_name"], "territory": each["territory"]}
    for each in listed["region"]:
        properties = {"displayName": each["display_name"], "territory": each["territory"], "operator": each["operator"]}
        yield "region", each["name"], properties | ({"zones": each["zones"]} if "zones" in each else {})


def _secret_file(path: Path) -> tuple[str, bool]:
    """The administrator's secret, and whether it was made just now; it is durable before its hash is."""
    try:
        if path.exists():
            return path.read_text(encoding="utf-8").strip(), False
        shown = secret.generate()
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(shown)  # no newline: the file is what `az login -p @FILE` reads
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise Error(Code.NOT_READY, f"the file `{path}` cannot be used: {error.strerror}") from error
    return shown, True
