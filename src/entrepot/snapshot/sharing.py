"""Equal parts of clients as one object: thousands of accounts name the same region, models and limits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from msgspec.structs import force_setattr

from entrepot.resources.model import Account, Deployment, Organization, Subscription

# Names are among them, as what is named so refers to them.
_OF_ORGANIZATION: Final = ("name", "territory", "eligibility", "flag", "limits")
_OF_SUBSCRIPTION: Final = ("id", "organization", "operator")
_OF_ACCOUNT: Final = ("subscription", "resource_group", "location", "operator", "residency", "limits", "key_limits")
_OF_DEPLOYMENT: Final = ("name", "model", "version")


class Sharing:
    """Of one publication while it is decoded: nobody else has its structs, and they stay equal to what they were."""

    def __init__(self) -> None:
        self._known: dict[Any, Any] = {}

    def organizations(self, found: tuple[Organization, ...]) -> tuple[Organization, ...]:
        for each in found:
            self._share(each, _OF_ORGANIZATION)
        return found

    def subscriptions(self, found: tuple[Subscription, ...]) -> tuple[Subscription, ...]:
        for each in found:
            self._share(each, _OF_SUBSCRIPTION)
        return found

    def accounts(self, found: tuple[Account, ...]) -> tuple[Account, ...]:
        for each in found:
            self._share(each, _OF_ACCOUNT)
            force_setattr(each, "deployments", tuple(self._deployments(each.deployments)))
        return found

    def _deployments(self, given: tuple[Deployment, ...]) -> Iterable[Deployment]:
        for each in given:
            shared: Deployment = self._known.setdefault(each, each)
            if shared is each:
                self._share(each, _OF_DEPLOYMENT)
            yield shared

    def _share(self, struct: Organization | Subscription | Account | Deployment, fields: tuple[str, ...]) -> None:
        for field in fields:
            value = getattr(struct, field)
            force_setattr(struct, field, self._known.setdefault(value, value))
