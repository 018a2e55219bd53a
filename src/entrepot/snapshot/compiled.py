"""A publication compiled to a Snapshot, and what it takes to go from one to the next without compiling all anew."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from typing import Any

import msgspec

from entrepot.clock import wall_clock_ms
from entrepot.errors import Error
from entrepot.identity.tokens import Verifier
from entrepot.origin.geo import Geo
from entrepot.origin.resolve import Resolver, egress_networks
from entrepot.policy import PolicyInvalid, Program, parse
from entrepot.policy import compile as compile_packs
from entrepot.providers.request import endpoint_of
from entrepot.resources import model as declared
from entrepot.resources.problems import Problem, WorldInvalid
from entrepot.snapshot.clients import Clients
from entrepot.snapshot.model import Snapshot
from entrepot.snapshot.parts import Account, Key
from entrepot.snapshot.published import Delta, Issuer, Published, bare, must_follow, unfit
from entrepot.snapshot.revision import Revision
from entrepot.snapshot.targets import Targets, secret


class Compiled:
    """Immutable: a change makes a new one, which shares all that it does not touch, and this one stays usable."""

    def __init__(
        self,
        snapshot: Snapshot,
        catalogue: declared.World,
        clients: Clients,
        targets: Targets,
        secrets: Mapping[str, str],
    ) -> None:
        self.snapshot = snapshot
        self._catalogue = catalogue
        self._clients = clients
        self._targets = targets
        self._secrets = secrets
        self._operators = frozenset(operator.name for operator in catalogue.operators)

    @classmethod
    def whole(cls, published: Published, before: Compiled | None = None) -> Compiled:
        """Raises WorldInvalid with the first mistake; one of the policy's packs is told with all the others of them.

        `before` lends what is the same in both and remembers: the policy's program, the issuer's verified tokens.
        """
        world, last = published.world, None if before is None else before.snapshot
        program = last.program if last is not None and last.packs == world.packs else compile_policy(world.packs)
        tokens = last.tokens if last is not None and last.issuer == published.issuer else _verifier(published.issuer)
        try:
            targets = Targets(world, program, published.secrets)
            clients = Clients(world.organizations, world.subscriptions, world.accounts)
            compiled = cls(_frame(published, program, tokens), bare(world), clients, targets, published.secrets)
            compiled._fill(compiled.snapshot.accounts, compiled.snapshot.keys, clients.accounts)
        except Error as error:
            raise unfit(error.message, "provide it, then start or reload") from error
        return compiled

    @property
    def revision(self) -> Revision:
        return self.snapshot.revision

    def changed(self, delta: Delta) -> Compiled:
        """Compiles the accounts that the delta touches. Raises WorldInvalid for what cannot be, and changes nothing."""
        must_follow(self.revision, delta)
        if any(self._secrets.get(reference, value) != value for reference, value in delta.secrets.items()):
            raise unfit("a secret that is in use has another value now", "publish the whole")
        clients, touched = self._clients.changed(delta)
        before = self.snapshot
        accounts, keys = {**before.accounts}, {**before.keys}
        for name in touched:
            old = accounts.pop(name, None) if name not in clients.accounts else accounts.get(name)
            if old is not None:
                for _, digest in _digests(old.given.keys, self._secrets):
                    keys.pop(digest, None)
        snapshot = msgspec.structs.replace(
            before,
            revision=delta.revision,
            accounts=accounts,
            keys=keys,
            grants=before.grants if delta.grants is None else delta.grants,
        )
        secrets = {**self._secrets, **delta.secrets} if delta.secrets else self._secrets
        compiled = Compiled(snapshot, self._catalogue, clients, self._targets, secrets)
        try:
            compiled._fill(accounts, keys, [name for name in touched if name in clients.accounts])
        except Error as error:
            raise unfit(error.message, "publish it with the change") from error
        return compiled

    def published(self) -> Published:
        """What `whole` would make the same of: for a worker that starts later."""
        clients = self._clients
        world = msgspec.structs.replace(
            self._catalogue,
            organizations=tuple(clients.organizations.values()),
            subscriptions=tuple(clients.subscriptions.values()),
            accounts=tuple(clients.accounts.values()),
        )
        return Published(self.revision, world, dict(self._secrets), self.snapshot.issuer, self.snapshot.grants)

    def tables(self) -> tuple[dict[Any, Any], ...]:
        """All that holds thousands of things: whoever is the last to hold them can let go of them in slices."""
        return (self.snapshot.keys, self.snapshot.accounts, *self._clients.tables())

    def _fill(self, accounts: dict[str, Account], keys: dict[bytes, Key], names: Iterable[str]) -> None:
        for name in names:
            given = self._clients.accounts[name]
            account = accounts[name] = self._account(given)
            for which, digest in _digests(given.keys, self._secrets):
                other = keys.setdefault(digest, Key(account, which)).account
                if other is not account:
                    what = f"`{account.name}` and `{other.name}` have the same key"
                    raise unfit(what, "give each account keys of its own", "account.keys")

    def _account(self, given: declared.Account) -> Account:
        self._check(given)
        organization = self._clients.owner(given)
        return Account(
            given,
            organization,
            self._targets.standing(organization, given),
            egress_networks(given.egress),
            self._targets.deployments(given),
        )

    def _check(self, given: declared.Account) -> None:
        if given.location not in self._targets.regions:
            what = f"there is no region `{given.location}`"
            raise unfit(what, "declare it, or move the account", f"account[{given.name}].location")
        if given.operator not in self._operators:
            what = f"there is no operator `{given.operator}`"
            raise unfit(what, "declare it, or correct the account", f"account[{given.name}].operator")


def compile_policy(packs: tuple[declared.PackSource, ...]) -> Program:
    """Raises WorldInvalid with every mistake of the packs."""
    try:
        return compile_packs(parse(packs))
    except PolicyInvalid as invalid:
        raise WorldInvalid(
            [Problem(p.file, p.line, p.subject or "", p.what, p.fix) for p in invalid.problems]
        ) from invalid


def _frame(published: Published, program: Program, tokens: Verifier | None) -> Snapshot:
    """The snapshot without accounts and keys."""
    world, gateway = published.world, published.world.gateway
    geo = Geo.open(gateway.geo, wall_clock_ms())
    return Snapshot(
        published.revision,
        gateway,
        world.packs,
        world.warn_days * 86_400_000,
        program,
        Resolver(world.sites, geo, gateway.origin_header, gateway.trusted_proxies),
        gateway.origin_header or "",
        f".{gateway.data_domain.lower().strip('.')}" if gateway.data_domain else None,
        {},
        {},
        {upstream.name: (endpoint_of(upstream), upstream.timeouts) for upstream in world.upstreams},
        {(model.name, model.version): model for model in world.models},
        published.issuer,
        tokens,
        published.grants,
    )


def _verifier(issuer: Issuer | None) -> Verifier | None:
    if issuer is None:
        return None
    try:
        return Verifier(issuer.url, issuer.keys, issuer.audiences)
    except ValueError as error:
        raise unfit(str(error), "publish the issuer's public keys as a JWK set", "issuer") from error


def _digests(keys: declared.Keys, secrets: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    """The SHA-256 of each key that there is, with its name."""
    for name, reference in (("key1", keys.key1), ("key2", keys.key2)):
        if reference is None:
            continue
        kind, _, rest = reference.partition(":")
        if kind == "sha256":
            yield name, bytes.fromhex(rest)
        else:
            yield name, sha256(secret(secrets, reference).encode()).digest()
