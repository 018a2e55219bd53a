"""Candidates and deployments by what tells them apart, so that thousands of deployments share a few."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from entrepot.errors import Code, Error
from entrepot.ledger.entries import facts
from entrepot.policy import Program, Target, within_residency
from entrepot.policy.derive import stretches, target_facts
from entrepot.providers.request import Prepared, prepare
from entrepot.resources import model as declared
from entrepot.resources.candidates import candidate_regions
from entrepot.snapshot.parts import Candidate, Deployment, Standing
from entrepot.snapshot.published import unfit

REMEMBERED = 4_096

Known = tuple[tuple[int, ...], tuple[tuple[str | frozenset[str], ...], ...]]
"""When a client's facts change by themselves, and what they are up to the first instant and from each."""


class Targets:
    """Of one catalogue, under one policy. Answers are remembered; two threads at once only do work twice."""

    def __init__(self, world: declared.World, program: Program, secrets: Mapping[str, str]) -> None:
        self.regions = {region.name: region for region in world.regions}
        self._upstreams = sorted(world.upstreams, key=lambda upstream: (upstream.priority, upstream.name))
        self._own_territory = world.gateway.territory
        self._program = program
        self._secrets = secrets
        self._prepared: dict[tuple[str, str], Prepared] = {}
        self._candidates: dict[tuple[str, str, bool], Candidate] = {}
        self._choices: dict[tuple[str, str, str, str, tuple[str, ...]], tuple[tuple[Candidate, ...], str]] = {}
        self._deployments: dict[tuple[str, str, str, str, str, tuple[str, ...]], Deployment] = {}
        self._named: dict[tuple[tuple[declared.Deployment, ...], str, tuple[str, ...]], dict[str, Deployment]] = {}
        self._known: dict[tuple[Known, tuple[declared.Owner, ...]], Standing] = {}
        self._standings: dict[tuple[Known, tuple[int, ...]], Standing] = {}

    def standing(self, organization: declared.Organization, account: declared.Account) -> Standing:
        """The same object for many clients, of different owners too where these make no difference."""
        cuts, given = stretches(organization, account)
        known = cuts, tuple([tuple(each.values()) for each in given])
        key = known, organization.owners
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            if len(self._standings) >= REMEMBERED:
                self._standings.clear()
            timeline = self._program.principal(organization, account)
            found = self._standings.get((known, timeline.masks))
            if found is None:
                spelled = tuple([msgspec.Raw(msgspec.json.encode(facts(each))) for each in given])
                found = self._standings[known, timeline.masks] = Standing(timeline, spelled)
            self._known[key] = found
        return found

    def deployments(self, account: declared.Account) -> dict[str, Deployment]:
        """By name, as `deployment`; not to be written to: accounts share it."""
        key = (account.deployments, account.location, account.residency)
        found = self._named.get(key)
        if found is None:
            if len(self._named) >= REMEMBERED:
                self._named.clear()
            found = self._named[key] = {each.name: self.deployment(each, account) for each in account.deployments}
        return found

    def deployment(self, given: declared.Deployment, account: declared.Account) -> Deployment:
        """Raises WorldInvalid if no upstream can serve it, Error for a credential that cannot be had."""
        key = (given.name, given.model, given.version, given.sku, account.location, account.residency)
        found = self._deployments.get(key)
        if found is None:
            if len(self._deployments) >= REMEMBERED:
                self._deployments.clear()
            found = self._deployments[key] = self._deployment(given, account)
        return found

    def _deployment(self, given: declared.Deployment, account: declared.Account) -> Deployment:
        candidates, provider = self._choice(given, account)
        return Deployment(given.name, given.model, given.version, provider, candidates)

    def _choice(self, given: declared.Deployment, account: declared.Account) -> tuple[tuple[Candidate, ...], str]:
        """What may serve it, the same tuple for deployments of different names, and the first one's provider."""
        key = (given.model, given.version, given.sku, account.location, account.residency)
        found = self._choices.get(key)
        if found is None:
            if len(self._choices) >= REMEMBERED:
                self._choices.clear()
            found = self._choices[key] = self._chosen(given, account)
        return found

    def _chosen(self, given: declared.Deployment, account: declared.Account) -> tuple[tuple[Candidate, ...], str]:
        allowed = candidate_regions(given.sku, account.location, self.regions)
        model = f"{given.model}@{given.version}"
        candidates, provider = [], ""
        for upstream in self._upstreams:
            if upstream.region in allowed and model in upstream.models:
                region = self.regions[upstream.region]
                in_residency = within_residency(account.residency, region.territory, region.zones)
                candidates.append(self._candidate(upstream, given, in_residency))
                provider = provider or upstream.provider
        if not candidates:
            what = f"no upstream can serve `{model}` as `{given.sku}` in `{account.location}`"
            key = f"account[{account.name}].deployment[{given.name}]"
            raise unfit(what, "change `sku` or `location`, or add an upstream", key)
        return tuple(candidates), provider

    def _candidate(self, upstream: declared.Upstream, of: declared.Deployment, in_residency: bool) -> Candidate:
        key = (upstream.name, f"{of.model}@{of.version}", in_residency)
        found = self._candidates.get(key)
        if found is None:
            found = self._candidates[key] = self._made(upstream, of, in_residency)
        return found

    def _made(self, upstream: declared.Upstream, of: declared.Deployment, in_residency: bool) -> Candidate:
        region = self.regions[upstream.region]
        name = upstream.models[f"{of.model}@{of.version}"]
        prepared = self._prepare(upstream, name)
        target = Target(
            provider=upstream.provider,
            model=of.model,
            region=region.name,
            territory=region.territory,
            operator=region.operator,
            egress_territory=upstream.proxy.territory if upstream.proxy else self._own_territory,
            zones=region.zones,
            in_residency=in_residency,
        )
        told = msgspec.Raw(msgspec.json.encode(facts(target_facts(target))))
        return Candidate(upstream, region, name, prepared, self._program.target(target), told)

    def _prepare(self, upstream: declared.Upstream, model: str) -> Prepared:
        key = (upstream.name, model)
        if key not in self._prepared:
            credential = None if upstream.credential == "none" else secret(self._secrets, upstream.credential)
            try:
                self._prepared[key] = prepare(upstream, model, credential)
            except ValueError as error:
                what = f"the secret `{upstream.credential}` has a character that a header cannot carry"
                raise Error(Code.NOT_READY, what) from error
        return self._prepared[key]


def secret(secrets: Mapping[str, str], reference: str) -> str:
    try:
        return secrets[reference]
    except KeyError as error:
        raise Error(Code.NOT_READY, f"the secret `{reference}` was not published") from error
