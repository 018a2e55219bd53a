"""Errors of the management API in the words of the real service (docs/azure-management.md, "Errors").

Grammar and punctuation are the real service's: clients and their users search for these sentences.
"""

from __future__ import annotations

from collections.abc import Iterable

from entrepot.errors import Code, Detail, Error
from entrepot.resources.ids import COGNITIVE

ACCOUNTS = f"{COGNITIVE}/accounts"
DEPLOYMENTS = f"{ACCOUNTS}/deployments"
LONGEST = 80


def _cut(given: str | None) -> str:
    """What a client gave, not endlessly."""
    text = given or ""
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"


def subscription_malformed(given: str) -> Error:
    return Error(
        Code.BAD_REQUEST,
        f"The provided subscription identifier '{_cut(given)}' is malformed or invalid.",
        name="InvalidSubscriptionId",
    )


def subscription_missing(given: str) -> Error:
    return Error(Code.NOT_FOUND, f"The subscription '{given}' could not be found.", name="SubscriptionNotFound")


def subscription_disabled(given: str) -> Error:
    text = (
        f"The subscription '{given}' is disabled and therefore marked as read only. You cannot perform any write "
        "actions on this subscription until it is re-enabled."
    )
    return Error(Code.CONFLICT, text, name="ReadOnlyDisabledSubscription")


def not_authorised(name: str, principal: str, action: str, scope: str) -> Error:
    text = (
        f"The client '{name}' with object id '{principal}' does not have authorization to perform action '{action}' "
        f"over scope '{scope}' or the scope is invalid: subscriptions are written by their operator's staff."
    )
    return Error(Code.ACCESS_DENIED, text, name="AuthorizationFailed")


def group_missing(given: str) -> Error:
    return Error(Code.NOT_FOUND, f"Resource group '{given}' could not be found.", name="ResourceGroupNotFound")


def group_moved(given: str, held: str) -> Error:
    text = f"Invalid resource group location '{_cut(given)}'. The Resource group already exists in location '{held}'."
    return Error(Code.CONFLICT, text, name="InvalidResourceGroupLocation", param="location")


def resource_missing(kind: str, name: str, group: str) -> Error:
    text = (
        f"The Resource '{kind}/{name}' under resource group '{group}' was not found. For more details please go to "
        "https://aka.ms/ARMResourceNotFoundFix"
    )
    return Error(Code.NOT_FOUND, text, name="ResourceNotFound")


def busy(resource: str) -> Error:
    text = f"Another operation is being performed on the resource '{resource}'. Please retry later."
    return Error(Code.CONFLICT, text, name="RequestConflict")


def parent_missing(parent: str) -> Error:
    text = (
        "Failed to perform 'write' on resource(s) of type 'accounts/deployments', because the parent resource "
        f"'{parent}' could not be found."
    )
    return Error(Code.NOT_FOUND, text, name="ParentResourceNotFound")


def location_unknown(given: str, kind: str, known: Iterable[str]) -> Error:
    available = ",".join(sorted(known))
    if kind == "resource group":
        text = (
            f"The provided location '{_cut(given)}' is not available for resource group. List of available regions is "
            f"'{available}'."
        )
        return Error(Code.BAD_REQUEST, text, name="LocationNotAvailableForResourceGroup", param="location")
    text = (
        f"The provided location '{_cut(given)}' is not available for resource type '{kind}'. List of available regions "
        f"for the resource type is '{available}'."
    )
    return Error(Code.BAD_REQUEST, text, name="LocationNotAvailableForResourceType", param="location")


def account_moved(name: str, group: str, held: str, given: str) -> Error:
    text = (
        f"The resource '{name}' already exists in location '{held}' in resource group '{group}'. A resource with the "
        f"same name cannot be created in location '{_cut(given)}'. Please select a new resource name."
    )
    return Error(Code.CONFLICT, text, name="InvalidResourceLocation", param="location")


def soft_deleted(id: str) -> Error:  # noqa: A002 - the message quotes a resource id
    text = (
        f"An existing resource with ID '{id}' has been soft-deleted. To restore the resource, you must specify "
        "'restore' to be 'true' in the property. If you don't want to restore existing resource, please purge it first."
    )
    return Error(Code.CONFLICT, text, name="FlagMustBeSetForRestore", param="properties.restore")


def suspended(name: str) -> Error:
    """What its operator has suspended cannot be made anew: that would lift the suspension."""
    text = f"The account '{name}' is suspended and cannot be deleted; its operator reinstates it first."
    return Error(Code.CONFLICT, text, name="AccountSuspended")


def not_restorable() -> Error:
    text = "You cannot restore a resource which does not exist."
    return Error(Code.NOT_FOUND, text, name="CanNotRestoreANonExistingResource", param="properties.restore")


def domain_in_use(name: str) -> Error:
    text = (
        f"Please pick a different name. The subdomain name '{name}' is not available as it's already used by a "
        "resource."
    )
    return Error(Code.CONFLICT, text, name="CustomDomainInUse", param="properties.customSubDomainName")


def kind_invalid(given: str) -> Error:
    text = f"The account type '{_cut(given)}' is either invalid or unavailable in given region."
    return Error(Code.BAD_REQUEST, text, name="InvalidApiSetId", param="kind")


def sku_invalid(given: str, kind: str) -> Error:
    text = f"The account SKU '{_cut(given)}' is not supported for the account type '{kind}'; use 'S0'."
    return Error(Code.BAD_REQUEST, text, name="InvalidSkuId", param="sku.name")


def keys_disabled(what: str) -> Error:
    return Error(Code.BAD_REQUEST, f"Failed to {what} key. disableLocalAuth is set to be true", name="BadRequest")


def model_unsupported(format_: str, name: str, version: str | None) -> Error:
    model = f"Format:{_cut(format_)},Name:{_cut(name)},Version:{_cut(version)}"
    text = f"The model '{model}' of account deployment is not supported."
    return Error(Code.BAD_REQUEST, text, name="DeploymentModelNotSupported", param="properties.model")


def sku_unsupported(sku: str, format_: str, name: str, version: str) -> Error:
    text = (
        f"The specified SKU '{_cut(sku)}' of account deployment is not supported by the model "
        f"'Format:{format_},Name:{name},Version:{version}' in this region."
    )
    return Error(Code.BAD_REQUEST, text, name="InvalidResourceProperties", param="sku.name")


def quota_exceeded(quota: str, model: str, needed: int, used: int, limit: int) -> Error:
    text = (
        f"This operation require {needed} new capacity in quota {quota}, which is bigger than the current available "
        f"capacity {max(limit - used, 0)}. The current quota usage is {used} and the quota limit is {limit} for quota "
        f"Tokens Per Minute (thousands) - {model}."
    )
    return Error(Code.BAD_REQUEST, text, name="InsufficientQuota", param="sku.capacity")


def not_written_here(details: tuple[Detail, ...]) -> Error:
    return Error(
        Code.BAD_REQUEST, details[0].message, name="PropertyNotWritable", param=details[0].target, details=details
    )


def invalid(details: tuple[Detail, ...]) -> Error:
    """One or more mistakes in a request's body; the first is the message."""
    return Error(
        Code.BAD_REQUEST, details[0].message, name="InvalidRequestContent", param=details[0].target, details=details
    )
