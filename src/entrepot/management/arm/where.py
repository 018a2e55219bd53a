"""Where a request points: its subscription, group and account, each looked up within the caller's tenancy and allowed.

The order matters: subscription (unknown or foreign: 404), then whether the caller may, then what is below. So nobody
learns which groups and accounts exist in a place that they cannot read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec
from starlette.requests import Request

from entrepot.management.arm import texts
from entrepot.management.authorize import Caller, caller, chain_from, may, require
from entrepot.management.control import Control
from entrepot.management.http import control_of
from entrepot.resources.ids import COGNITIVE
from entrepot.storage import Row

GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


class Where(msgspec.Struct, frozen=True):
    """A subscription that the caller can see, and what it takes to go on from there."""

    control: Control
    caller: Caller
    subscription: Row

    @property
    def operator(self) -> str | None:
        return self.subscription.operator

    def allow(self, action: str, resource: str) -> None:
        """Raises Error unless the caller may do this to the resource, whether or not it exists."""
        require(self.caller, action, chain_from(resource, self.operator))

    def may(self, action: str, resource: str) -> bool:
        return may(self.caller, action, chain_from(resource, self.operator))

    def writable(self) -> None:
        """Raises Error while the operator has disabled the subscription."""
        if self.subscription.body.get("properties", {}).get("state", "Enabled") != "Enabled":
            raise texts.subscription_disabled(self.subscription.name)

    def visible(self, action: str, rows: Iterable[Row]) -> list[Row]:
        """Those that the caller may read: a list leaves the others out."""
        return [row for row in rows if self.may(action, row.id)]

    def group_id(self, name: str) -> str:
        return f"{self.subscription.id}/resourceGroups/{name}"

    async def group(self, name: str) -> Row:
        row = await self.control.rows.get(self.caller.tenancy, self.group_id(name))
        if row is None:
            raise texts.group_missing(name)
        return row

    async def account(self, group: str, name: str) -> Row:
        """The account that lives. Raises Error NOT_FOUND for the group, then for the account."""
        row = await self.control.rows.get(self.caller.tenancy, account_in(self.group_id(group), name))
        if row is None:
            await self.group(group)
            raise texts.resource_missing(texts.ACCOUNTS, name, group)
        return row

    async def deployment(self, group: str, account: str, name: str) -> tuple[Row, Row]:
        """The account and its deployment."""
        held = await self.account(group, account)
        row = await self.control.rows.get(self.caller.tenancy, f"{held.id}/deployments/{name}")
        if row is None:
            raise texts.resource_missing(texts.ACCOUNTS, f"{account}/deployments/{name}", group)
        return held, row


async def subscription_at(request: Request, action: str = "", resource: str = "") -> Where:
    """The subscription of the path. With `action`, the caller must have it on `resource`, below the subscription.

    `resource` begins with a slash, or is empty for the subscription itself.
    """
    control, asking = control_of(request), caller(request)
    given: str = request.path_params["subscription"]
    if not GUID.fullmatch(given):
        raise texts.subscription_malformed(given)
    row = await control.rows.get(asking.tenancy, f"/subscriptions/{given}")
    if row is None:
        raise texts.subscription_missing(given)
    where = Where(control, asking, row)
    if action:
        where.allow(action, row.id + resource)
    return where


async def group_at(request: Request, action: str) -> Where:
    """The same with an action on the group of the path."""
    return await subscription_at(request, action, f"/resourceGroups/{request.path_params['group']}")


async def account_at(request: Request, action: str) -> Where:
    """The same with an action on the account of the path."""
    path = request.path_params
    return await subscription_at(request, action, account_in(f"/resourceGroups/{path['group']}", path["account"]))


async def deployment_at(request: Request, action: str) -> Where:
    """The same with an action on the deployment of the path."""
    path = request.path_params
    account = account_in(f"/resourceGroups/{path['group']}", path["account"])
    return await subscription_at(request, action, f"{account}/deployments/{path['deployment']}")


def account_in(group: str, name: str) -> str:
    """Below the group's id."""
    return f"{group}/providers/{COGNITIVE}/accounts/{name}"


def group_of(row: Row) -> str:
    """The name of the resource group that a resource lies in, as its id spells it."""
    return row.id.split("/")[4]
