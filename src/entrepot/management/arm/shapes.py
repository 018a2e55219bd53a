"""Rows as Azure Resource Manager shows them. Pure: computed fields are added here, and nowhere stored."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from entrepot.management.arm import quota, texts
from entrepot.management.arm.catalogue import capabilities
from entrepot.resources.model import Region
from entrepot.storage import Row
from entrepot.wire import arm

_INTERNAL = uuid.UUID("6f6d1f0e-2a53-5d0e-8a55-0a4d0f3c5e11")  # a name space of our own for `internalId`


def subscription(row: Row, tenant: str) -> dict[str, Any]:
    properties: dict[str, Any] = row.body.get("properties", {})
    return {
        "id": row.id,
        "subscriptionId": row.name,
        "tenantId": tenant,
        "displayName": properties.get("displayName") or row.name,
        "state": properties.get("state", "Enabled"),
        "subscriptionPolicies": {
            "locationPlacementId": "Public_2014-09-01",
            "quotaId": properties.get("quotaId", "EnterpriseAgreement_2014-09-01"),
            "spendingLimit": "Off",
        },
        "authorizationSource": "RoleBased",
        "managedByTenants": [],
        "tags": row.body.get("tags") or {},
        "properties": properties,
        "etag": f'"{row.etag}"',
    }


def location(region: Region, subscription_id: str) -> dict[str, Any]:
    display = region.display_name or region.name
    return {
        "id": f"{subscription_id}/locations/{region.name}",
        "name": region.name,
        "type": "Region",
        "displayName": display,
        "regionalDisplayName": f"({region.territory}) {display}",
        "metadata": {
            "regionType": "Physical",
            "regionCategory": "Recommended",
            "geography": region.territory,
            "geographyGroup": ", ".join(region.zones) or region.territory,
            "physicalLocation": region.territory,
            "pairedRegion": [],
        },
    }


def group(row: Row) -> dict[str, Any]:
    body = row.body
    shown: dict[str, Any] = {
        **body,
        "id": row.id,
        "name": row.name,
        "type": "Microsoft.Resources/resourceGroups",
        "location": body["location"],
        "properties": {**body.get("properties", {}), "provisioningState": "Succeeded"},
    }
    return shown


def account(row: Row, data_url: str) -> dict[str, Any]:
    """`data_url` is where the data plane listens, without a final slash."""
    return _resource(row, texts.ACCOUNTS) | {"properties": _account_properties(row, data_url)}


def deleted_account(row: Row, data_url: str) -> dict[str, Any]:
    """As a list of soft-deleted accounts has it: under its location, with the dates of deletion and purge."""
    parts = row.id.split("/")
    place = row.body["location"]
    properties = _account_properties(row, data_url)
    properties["deletionDate"] = arm.instant(row.deleted_ms or 0)
    properties["scheduledPurgeDate"] = arm.instant(row.purge_ms or 0)
    return _resource(row, f"{texts.ACCOUNTS.rpartition('/')[0]}/locations/resourceGroups/deletedAccounts") | {
        "id": f"/subscriptions/{parts[2]}/providers/Microsoft.CognitiveServices/locations/{place}/resourceGroups/"
        f"{parts[4]}/deletedAccounts/{row.name}",
        "properties": properties,
    }


def deployment(row: Row) -> dict[str, Any]:
    body: dict[str, Any] = row.body
    properties = body.get("properties", {})
    model, capacity = properties["model"]["name"], body["sku"]["capacity"]
    return _resource(row, texts.DEPLOYMENTS) | {
        "properties": {
            **properties,
            "capabilities": capabilities(model),
            "provisioningState": "Succeeded",
            "rateLimits": quota.rate_limits(model, capacity),
            "currentCapacity": capacity,
        }
    }


def usage(found: quota.Quota) -> dict[str, Any]:
    return {
        "unit": "Count",
        "name": {"value": found.name, "localizedValue": quota.quota_name(found.model, found.sku)},
        "currentValue": float(found.used),
        "limit": float(found.limit),
    }


def generic(row: Row) -> dict[str, Any]:
    """As `/resources` has it: no properties."""
    shown = _resource(row, texts.ACCOUNTS)
    return {key: shown[key] for key in ("id", "name", "type", "kind", "location", "sku", "tags") if key in shown}


def _account_properties(row: Row, data_url: str) -> dict[str, Any]:
    endpoint = f"{data_url}/accounts/{row.name}/"
    held: Mapping[str, Any] = row.body.get("properties", {})
    return {
        "publicNetworkAccess": "Enabled",
        "disableLocalAuth": False,
        # Said, for where nothing is said the Azure CLI shows `Deny`.
        "networkAcls": {"defaultAction": "Allow", "ipRules": [], "virtualNetworkRules": []},
        **held,
        "customSubDomainName": row.name,
        "endpoint": endpoint,
        "endpoints": {"OpenAI Language Model Instance API": endpoint},
        "internalId": uuid.uuid5(_INTERNAL, row.id.lower()).hex,
        "dateCreated": arm.instant(row.created_ms),
        "callRateLimit": {"rules": []},
        "capabilities": [],
        "isMigrated": False,
        "privateEndpointConnections": [],
        "provisioningState": "Succeeded",
    }


def _resource(row: Row, kind: str) -> dict[str, Any]:
    """The envelope: what was given, and over it what only the server knows."""
    return {
        **row.body,
        "id": row.id,
        "name": row.name,
        "type": kind,
        "etag": f'"{row.etag}"',
        "systemData": arm.system_data(row.created_by, row.created_ms, row.changed_by, row.changed_ms),
    }
