"""Which upstreams a deployment's calls may go to, as targets that the policy decides on: for analysis of a world."""

from __future__ import annotations

from typing import NamedTuple

from entrepot.policy.derive import Target, within_residency
from entrepot.resources.candidates import candidate_regions
from entrepot.resources.model import Account, Deployment, Organization, Upstream, World


class Client(NamedTuple):
    """A deployment with the account and the organization that it belongs to."""

    organization: Organization
    account: Account
    deployment: Deployment


class Served(NamedTuple):
    """An upstream that has the deployment's model. `candidate`: the SKU lets calls go there."""

    upstream: str
    target: Target
    candidate: bool


def clients(world: World) -> tuple[Client, ...]:
    owners = {subscription.id: subscription.organization for subscription in world.subscriptions}
    organizations = {organization.name: organization for organization in world.organizations}
    return tuple(
        Client(organizations[owners[account.subscription]], account, deployment)
        for account in world.accounts
        for deployment in account.deployments
    )


def find_client(world: World, account: str, deployment: str) -> Client:
    """Raises `LookupError`, saying what there is."""
    there = clients(world)
    of_account = [each for each in there if each.account.name == account]
    for each in of_account:
        if each.deployment.name == deployment:
            return each
    if of_account:
        names = ", ".join(f"`{each.deployment.name}`" for each in of_account)
        raise LookupError(f"`{account}` has no deployment `{deployment}`; it has {names}")
    names = ", ".join(f"`{name}`" for name in sorted({each.account.name for each in there}))
    raise LookupError(f"no account `{account}` with a deployment; there are {names or 'none'}")


def served(world: World, account: Account, deployment: Deployment) -> tuple[Served, ...]:
    """Every upstream that has the model, in the order in which the gateway tries them."""
    regions = {region.name: region for region in world.regions}
    allowed = candidate_regions(deployment.sku, account.location, regions)
    having = (one for one in world.upstreams if f"{deployment.model}@{deployment.version}" in one.models)

    def target(upstream: Upstream) -> Target:
        region = regions[upstream.region]
        return Target(
            provider=upstream.provider,
            model=deployment.model,
            region=region.name,
            territory=region.territory,
            operator=region.operator,
            egress_territory=upstream.proxy.territory if upstream.proxy else world.gateway.territory,
            zones=region.zones,
            in_residency=within_residency(account.residency, region.territory, region.zones),
        )

    ordered = sorted(having, key=lambda upstream: (upstream.priority, upstream.name))
    return tuple(Served(upstream.name, target(upstream), upstream.region in allowed) for upstream in ordered)
