"""A world and its packs, compiled once to what a call needs: keys, accounts, candidate targets with their policy masks.

Immutable, but for memories of pure functions. A change makes a new Snapshot; calls in flight keep theirs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256

import msgspec

from entrepot.config import Config
from entrepot.errors import Code, Error
from entrepot.http1.client import Endpoint
from entrepot.http1.message import render_headers
from entrepot.ledger.entries import facts
from entrepot.origin.geo import Geo
from entrepot.origin.resolve import Egresses, Resolver, egress_networks
from entrepot.policy import PolicyInvalid, Program, Target, Timeline, parse, shipped, shipped_names, within_residency
from entrepot.policy import compile as compile_packs
from entrepot.policy.derive import target_facts
from entrepot.providers.request import Prepared, endpoint_of, prepare
from entrepot.resources import model as declared
from entrepot.resources.candidates import candidate_regions
from entrepot.resources.folder import SHIPPED
from entrepot.resources.load import load_world
from entrepot.resources.problems import Problem, WorldInvalid

Secrets = Callable[[str], str]


class Candidate(msgspec.Struct, frozen=True):
    """One target that a deployment's SKU allows, whether or not the policy will permit it.

    `facts` is the policy's `target.*` and `egress.*` as a ledger entry has them. `model` is the JSON string that the
    upstream calls the model; `head` holds the operator's credential.
    """

    upstream: str
    region: str
    territory: str
    priority: int
    weight: int
    mask: int
    facts: msgspec.Raw
    model: msgspec.Raw
    head: bytes
    targets: dict[str, str]
    region_head: bytes

    def __repr__(self) -> str:
        return f"Candidate({self.upstream})"


class Deployment(msgspec.Struct, frozen=True):
    """`candidates` are in the order of priority, then name; `provider` is the first one's."""

    name: str
    model: str
    version: str
    provider: str
    candidates: tuple[Candidate, ...]


class Account(msgspec.Struct, frozen=True):
    """`timeline` holds the policy mask of all that is known of the client; `egress` its attested networks."""

    name: str
    organization: declared.Organization
    given: declared.Account
    timeline: Timeline
    egress: Egresses | None
    deployments: dict[str, Deployment]


class Key(msgspec.Struct, frozen=True):
    """Which of its account's keys it is: `key1` or `key2`."""

    account: Account
    name: str


class Snapshot(msgspec.Struct, frozen=True):
    """`keys` maps a key's SHA-256 to its account. `data_domain` begins with a dot; `origin_header` may be empty.

    `warn_ms` is how long before a rule takes effect the calls that it will refuse are told.
    """

    gateway: declared.Gateway
    packs: tuple[declared.PackSource, ...]
    warn_ms: int
    program: Program
    origins: Resolver
    origin_header: str
    data_domain: str | None
    keys: dict[bytes, Key]
    accounts: dict[str, Account]
    endpoints: dict[str, tuple[Endpoint, declared.Timeouts]]


def compile_files(files: Mapping[str, bytes], config: Config) -> Snapshot:
    """Raises WorldInvalid with every mistake of the world, else every mistake of its packs, else a missing secret."""
    world = load_world(files, {name.removeprefix(SHIPPED): shipped(name).data for name in shipped_names()}).world
    try:
        program = compile_packs(parse(world.packs))
    except PolicyInvalid as invalid:
        raise WorldInvalid(
            [Problem(p.file, p.line, p.subject or "", p.what, p.fix) for p in invalid.problems]
        ) from invalid
    try:
        return compile_world(world, program, config.resolve_secret)
    except Error as error:
        raise WorldInvalid([Problem("world", None, "", error.message, "provide it, then start or reload")]) from error


def compile_world(world: declared.World, program: Program, secrets: Secrets) -> Snapshot:
    """Raises Error for a secret that cannot be had, WorldInvalid for a key that two accounts share."""
    targets = _Targets(world, program, secrets)
    organizations = {organization.name: organization for organization in world.organizations}
    owners = {subscription.id: organizations[subscription.organization] for subscription in world.subscriptions}
    accounts: dict[str, Account] = {}
    keys: dict[bytes, Key] = {}
    for given in world.accounts:
        organization = owners[given.subscription]
        account = accounts[given.name] = Account(
            given.name,
            organization,
            given,
            program.principal(organization, given),
            egress_networks(given.egress),
            {deployment.name: _deployment(deployment, given, targets) for deployment in given.deployments},
        )
        for name, digest in _digests(given.keys, secrets):
            other = keys.setdefault(digest, Key(account, name)).account
            if other is not account:
                what = f"`{account.name}` and `{other.name}` have the same key"
                raise WorldInvalid([Problem("world", None, "account.keys", what, "give each account keys of its own")])
    gateway = world.gateway
    now_ms = time.time_ns() // 1_000_000
    return Snapshot(
        gateway,
        world.packs,
        world.warn_days * 86_400_000,
        program,
        Resolver(world.sites, Geo.open(gateway.geo, now_ms), gateway.origin_header, gateway.trusted_proxies),
        gateway.origin_header or "",
        f".{gateway.data_domain.lower().strip('.')}" if gateway.data_domain else None,
        keys,
        accounts,
        {upstream.name: (endpoint_of(upstream), upstream.timeouts) for upstream in world.upstreams},
    )


class _Targets:
    """Candidates by what tells them apart, so that thousands of deployments share a few."""

    def __init__(self, world: declared.World, program: Program, secrets: Secrets) -> None:
        self.regions = {region.name: region for region in world.regions}
        self.upstreams = sorted(world.upstreams, key=lambda upstream: (upstream.priority, upstream.name))
        self._own_territory = world.gateway.territory
        self._program = program
        self._secrets = secrets
        self._prepared: dict[tuple[str, str], Prepared] = {}
        self._candidates: dict[tuple[str, str, bool], Candidate] = {}

    def candidate(self, upstream: declared.Upstream, model: str, version: str, in_residency: bool) -> Candidate:
        key = (upstream.name, f"{model}@{version}", in_residency)
        if key not in self._candidates:
            self._candidates[key] = self._candidate(upstream, model, version, in_residency)
        return self._candidates[key]

    def _candidate(self, upstream: declared.Upstream, model: str, version: str, in_residency: bool) -> Candidate:
        region = self.regions[upstream.region]
        name = upstream.models[f"{model}@{version}"]
        prepared = self._prepare(upstream, name)
        target = Target(
            provider=upstream.provider,
            model=model,
            region=region.name,
            territory=region.territory,
            operator=region.operator,
            egress_territory=upstream.proxy.territory if upstream.proxy else self._own_territory,
            zones=region.zones,
            in_residency=in_residency,
        )
        return Candidate(
            upstream.name,
            region.name,
            region.territory,
            upstream.priority,
            upstream.weight,
            self._program.target(target),
            msgspec.Raw(msgspec.json.encode(facts(target_facts(target)))),
            msgspec.Raw(msgspec.json.encode(name)),
            prepared.head,
            prepared.targets,
            render_headers([("x-ms-region", _shown(region))]),
        )

    def _prepare(self, upstream: declared.Upstream, model: str) -> Prepared:
        key = (upstream.name, model)
        if key not in self._prepared:
            credential = None if upstream.credential == "none" else self._secrets(upstream.credential)
            try:
                self._prepared[key] = prepare(upstream, model, credential)
            except ValueError as error:
                what = f"the secret `{upstream.credential}` has a character that a header cannot carry"
                raise Error(Code.NOT_READY, what) from error
        return self._prepared[key]


def _shown(region: declared.Region) -> str:
    """The display name if a header can carry it to every client, else the name."""
    shown = region.display_name or region.name
    return shown if shown.isascii() and shown.isprintable() else region.name


def _deployment(given: declared.Deployment, account: declared.Account, targets: _Targets) -> Deployment:
    allowed = candidate_regions(given.sku, account.location, targets.regions)
    model = f"{given.model}@{given.version}"
    candidates, provider = [], ""
    for upstream in targets.upstreams:
        if upstream.region in allowed and model in upstream.models:
            region = targets.regions[upstream.region]
            in_residency = within_residency(account.residency, region.territory, region.zones)
            candidates.append(targets.candidate(upstream, given.model, given.version, in_residency))
            provider = provider or upstream.provider
    return Deployment(given.name, given.model, given.version, provider, tuple(candidates))


def _digests(keys: declared.Keys, secrets: Secrets) -> Iterable[tuple[str, bytes]]:
    """The SHA-256 of each key that there is, with its name."""
    for name, reference in (("key1", keys.key1), ("key2", keys.key2)):
        if reference is None:
            continue
        kind, _, rest = reference.partition(":")
        if kind == "sha256":
            yield name, bytes.fromhex(rest)
        else:
            plain = secrets(reference) if kind in {"env", "file"} else reference
            yield name, sha256(plain.encode()).digest()
