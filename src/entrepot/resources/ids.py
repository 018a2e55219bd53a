"""Resource ids as Azure spells them. Ids are compared without regard to case, and kept as they were first written."""

from __future__ import annotations

from typing import Final

COGNITIVE: Final = "Microsoft.CognitiveServices"
ACCESS: Final = "Entrepot.Access"
SETTINGS: Final = f"/providers/{ACCESS}/settings/default"

# Kinds of `Entrepot.Access` and the collections that they stand in.
COLLECTIONS: Final = {
    "operator": "operators",
    "region": "regions",
    "provider": "providers",
    "model": "models",
    "upstream": "upstreams",
    "site": "sites",
    "organization": "organizations",
    "gateway": "gateways",
    "principal": "principals",
    "policyRelease": "policyReleases",
    "proposal": "proposals",
    "settings": "settings",
}


def access_id(kind: str, name: str) -> str:
    return f"/providers/{ACCESS}/{COLLECTIONS[kind]}/{name}"


def subscription_id(name: str) -> str:
    return f"/subscriptions/{name}"


def group_id(subscription: str, name: str) -> str:
    return f"/subscriptions/{subscription}/resourceGroups/{name}"


def account_id(subscription: str, group: str, name: str) -> str:
    return f"{group_id(subscription, group)}/providers/{COGNITIVE}/accounts/{name}"


def deployment_id(account: str, name: str) -> str:
    """`account` is the account's id."""
    return f"{account}/deployments/{name}"


def parent_account(deployment: str) -> str:
    """The account's id of a deployment's."""
    return deployment.rpartition("/")[0].rpartition("/")[0]


def site_name(network: str) -> str:
    return network.replace("/", "-")


def part(id: str, collection: str) -> str | None:  # noqa: A002
    """The name that follows `collection` in an id: `part(id, "resourceGroups")`. None when it is not in it."""
    parts = id.split("/")
    wanted = collection.lower()
    for at in range(1, len(parts) - 1, 1):
        if parts[at].lower() == wanted:
            return parts[at + 1]
    return None
