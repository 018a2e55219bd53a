"""Requests' bodies, validated, as the bodies of rows. Pure: what is asked, with what is held, gives what will be held.

Unknown fields are kept and shown again. What only the server knows is dropped, so that what was read can be written
back. What the policy reads, and what this service could not keep as a promise, is refused with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from entrepot.errors import Detail
from entrepot.management.arm import texts
from entrepot.management.arm.fields import Fields, kind_of, shown

KINDS = ("OpenAI", "AIServices")
_KINDS_ADVICE = f"write one of {', '.join(KINDS)}"

# Computed, whatever a client sends of them.
_ENVELOPE = frozenset({"id", "name", "type", "etag", "systemData"})
_ACCOUNT_OUTPUT = frozenset(
    {
        "provisioningState",
        "endpoint",
        "endpoints",
        "internalId",
        "capabilities",
        "dateCreated",
        "callRateLimit",
        "quotaLimit",
        "privateEndpointConnections",
        "isMigrated",
        "skuChangeInfo",
        "deletionDate",
        "scheduledPurgeDate",
        "abusePenalty",
        "restore",
    }
)
_DEPLOYMENT_OUTPUT = frozenset(
    {
        "provisioningState",
        "capabilities",
        "callRateLimit",
        "rateLimits",
        "dynamicThrottlingEnabled",
        "currentCapacity",
        "scaleSettings",
    }
)

# INVARIANT: what the policy reads of an account or its owner is never written through this API.
_PROPOSED = frozenset({"residency", "egress"})
_OPERATORS = frozenset(
    {
        *("organization", "operator", "channel", "state", "suspension"),
        *("kyc", "licence", "screening", "eligibility", "flag", "owners"),
    }
)
PROTECTED = _PROPOSED | _OPERATORS


def account(given: Mapping[str, Any], held: Mapping[str, Any] | None, name: str, id: str) -> dict[str, Any]:  # noqa: A002
    """The body of an account that is created or replaced. `held` is the present body, None at creation.

    `location` is as it was given; the caller knows the regions.
    """
    fields = Fields()
    fields.account_name(name)
    body = _kept(given)
    body["location"] = fields.text(given, "location") or (held or {}).get("location")
    if body["location"] is None:
        fields.mistake("location", "it is missing", "write a region such as `eastus2`")
    body["kind"] = _kind(given, held, fields)
    body["sku"] = _account_sku(fields.table(given, "sku"), held, fields)
    body["tags"] = fields.tags(given) or {}
    fields.table(given, "identity")
    properties = fields.table(given, "properties")
    _check_account(properties, held, name, id, fields)
    body["properties"] = _account_properties(properties, held)
    fields.finish()
    return body


def account_update(
    given: Mapping[str, Any],
    held: Mapping[str, Any],
    name: str,
    id: str,  # noqa: A002
) -> dict[str, Any]:
    """The body after a PATCH: tags are replaced, properties merged one level deep, null takes one out."""
    fields = Fields()
    body = {**held, **{key: value for key, value in _kept(given).items() if value is not None}}
    body["kind"] = _kind(given, held, fields)
    body["sku"] = _account_sku(fields.table(given, "sku"), held, fields)
    tags = fields.tags(given)
    body["tags"] = held.get("tags", {}) if tags is None else tags
    fields.table(given, "identity")
    asked = fields.text(given, "location")
    body["location"] = asked or held["location"]
    properties = fields.table(given, "properties")
    _check_account(properties, held, name, id, fields)
    merged = {**held.get("properties", {}), **properties}
    gone = {key for key, value in properties.items() if value is None}
    body["properties"] = _account_properties({key: value for key, value in merged.items() if key not in gone}, held)
    fields.finish()
    return body


def restores(given: Mapping[str, Any]) -> bool:
    """Whether the PUT of an account asks for the soft-deleted one of that id."""
    properties = given.get("properties")
    return type(properties) is dict and properties.get("restore") in (True, "true", "True")


def deployment(given: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The body of a deployment that is created or replaced. `properties.model.version` may be missing."""
    fields = Fields()
    fields.deployment_name(name)
    body = _kept(given)
    properties = fields.table(given, "properties")
    model = fields.table(properties, "model", "properties.")
    for key in ("format", "name"):
        if fields.text(model, key, "properties.model.") is None and model.get(key) is None:
            fields.mistake(f"properties.model.{key}", "it is missing", 'write such as `"OpenAI"` and `"gpt-4o"`')
    fields.text(model, "version", "properties.model.")
    sku = _deployment_sku(given, properties, fields)
    if fields.choice(properties, "deploymentState", ("Running", "Paused"), "properties.") == "Paused":
        fields.mistake("properties.deploymentState", "a deployment begins running", "pause it with `POST …/pause`")
    tags = fields.tags(given)
    fields.finish()
    kept = {key: value for key, value in properties.items() if key not in _DEPLOYMENT_OUTPUT}
    # Nothing upgrades a version by itself here, so nothing else is claimed where the client does not ask for it.
    kept.setdefault("versionUpgradeOption", "NoAutoUpgrade")
    return {**body, "sku": sku, "tags": tags or {}, "properties": {**kept, "model": dict(model)}}


def deployment_update(given: Mapping[str, Any], held: Mapping[str, Any]) -> dict[str, Any]:
    """The body after a PATCH, which changes tags and the SKU's capacity or name."""
    fields = Fields()
    asked = fields.table(given, "sku")
    name, capacity = fields.text(asked, "name", "sku."), fields.count(asked, "capacity", "sku.")
    tags = fields.tags(given)
    if given.get("properties"):
        fields.mistake("properties", "PATCH changes `tags` and `sku`", "PUT the whole deployment")
    fields.finish()
    sku = {**held["sku"], **asked}
    sku["name"] = name or held["sku"]["name"]
    sku["capacity"] = capacity or held["sku"]["capacity"]
    return {**held, "sku": sku, "tags": held.get("tags", {}) if tags is None else tags}


def group(given: Mapping[str, Any], held: Mapping[str, Any] | None, name: str) -> dict[str, Any]:
    """The body of a resource group that is created or replaced."""
    fields = Fields()
    fields.group_name(name)
    location = fields.text(given, "location") or (held or {}).get("location")
    if location is None:
        fields.mistake("location", "it is missing", "write a region such as `eastus2`")
    tags = fields.tags(given)
    properties = fields.table(given, "properties")
    fields.finish()
    kept = {key: value for key, value in properties.items() if key != "provisioningState"}
    return {**_kept(given), "location": location, "tags": tags or {}, "properties": kept}


def _kept(given: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in given.items() if key not in _ENVELOPE}


def _kind(given: Mapping[str, Any], held: Mapping[str, Any] | None, fields: Fields) -> str:
    kind = fields.text(given, "kind") or (held or {}).get("kind")
    if kind is None:
        fields.mistake("kind", "it is missing", _KINDS_ADVICE)
        return KINDS[0]
    spelled = {each.lower(): each for each in KINDS}
    if str(kind).lower() not in spelled:
        raise texts.kind_invalid(str(kind))
    return spelled[str(kind).lower()]


def _account_sku(given: Mapping[str, Any], held: Mapping[str, Any] | None, fields: Fields) -> dict[str, Any]:
    name = fields.text(given, "name", "sku.") or (held or {}).get("sku", {}).get("name")
    if name is None:
        fields.mistake("sku.name", "it is missing", "write `S0`")
    elif name.upper() != "S0":
        raise texts.sku_invalid(name, "OpenAI")
    return {**given, "name": "S0"}


def _account_properties(given: Mapping[str, Any], held: Mapping[str, Any] | None) -> dict[str, Any]:
    before: Mapping[str, Any] = (held or {}).get("properties", {})
    kept = {key: value for key, value in given.items() if key not in _ACCOUNT_OUTPUT and key not in PROTECTED}
    protected = {key: value for key, value in before.items() if key in PROTECTED}
    return {**kept, **protected}


def _check_account(
    properties: Mapping[str, Any],
    held: Mapping[str, Any] | None,
    name: str,
    id: str,  # noqa: A002
    fields: Fields,
) -> None:
    _check_protected(properties, (held or {}).get("properties", {}), id)
    domain = fields.text(properties, "customSubDomainName", "properties.")
    if domain is not None and domain.lower() != name.lower():
        fields.mistake(
            "properties.customSubDomainName",
            f"{shown(domain)} is not the account's name, which is its subdomain here",
            f"leave it out, or write `{name}`",
        )
    fields.flag(properties, "disableLocalAuth", "properties.")
    _check_promises(properties, fields)


def _check_protected(properties: Mapping[str, Any], before: Mapping[str, Any], id: str) -> None:  # noqa: A002
    """Raises Error for what a tenant may not write; the values that are there may be sent back."""
    details = [
        Detail("PropertyNotWritable", _advice(key, id), f"properties.{key}")
        for key, value in properties.items()
        if key in PROTECTED and value is not None and value != before.get(key)
    ]
    if details:
        raise texts.not_written_here(tuple(details))


def _advice(key: str, id: str) -> str:  # noqa: A002
    if key in _PROPOSED:
        return (
            f"`properties.{key}` is proposed and then approved, never written: send `PUT /providers/Entrepot.Access/"
            f'proposals/{{guid}}` with `{{"properties":{{"kind":"{key}","subject":"{id}","change":{{…}},'
            f'"reason":"…"}}}}`'
        )
    if key in ("state", "suspension"):
        return (
            f"`properties.{key}` is the operator's: it suspends an account with `POST {id}/suspend` and lifts that "
            "with an approved proposal of kind `reinstatement`"
        )
    return f"`properties.{key}` follows from the subscription and its organization, which the operator keeps; ask it"


def _check_promises(properties: Mapping[str, Any], fields: Fields) -> None:
    """Refuse what would only look as if it were in force: nothing here filters by address, key vault or storage."""
    if str(properties.get("publicNetworkAccess") or "Enabled").lower() != "enabled":
        fields.mistake(
            "properties.publicNetworkAccess",
            "this service has no private endpoints",
            "leave it out, and keep the data plane's listener from networks that shall not reach it",
        )
    acls = properties.get("networkAcls")
    if acls is not None and type(acls) is not dict:
        fields.mistake("properties.networkAcls", f"expected an object, found {kind_of(acls)}", "write `{…}`")
    elif acls and str(acls.get("defaultAction") or "Allow").lower() != "allow":
        fields.mistake(
            "properties.networkAcls.defaultAction",
            "addresses are judged by the access policy, not by the account's own list",
            "write `Allow`, or leave `networkAcls` out",
        )
    if properties.get("restrictOutboundNetworkAccess"):
        fields.mistake(
            "properties.restrictOutboundNetworkAccess", "nothing here calls out for an account", "leave it out"
        )
    encryption = properties.get("encryption")
    if type(encryption) is dict and str(encryption.get("keySource", "")).lower() == "microsoft.keyvault":
        fields.mistake("properties.encryption", "there is no key vault here", "leave it out")
    if properties.get("userOwnedStorage"):
        fields.mistake("properties.userOwnedStorage", "there is no storage of the customer's here", "leave it out")


def _deployment_sku(given: Mapping[str, Any], properties: Mapping[str, Any], fields: Fields) -> dict[str, Any]:
    """`sku`, or the older `properties.scaleSettings`."""
    sku = fields.table(given, "sku")
    older = fields.table(properties, "scaleSettings", "properties.")
    name = fields.text(sku, "name", "sku.") or fields.text(older, "scaleType", "properties.scaleSettings.")
    capacity = fields.count(sku, "capacity", "sku.")
    if capacity is None and "capacity" not in sku:
        capacity = fields.count(older, "capacity", "properties.scaleSettings.")
    found: dict[str, Any] = {**sku, "name": name or "Standard"}
    found.pop("capacity", None)
    if capacity is not None:
        found["capacity"] = capacity
    return found
