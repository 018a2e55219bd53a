"""What calls are decided by: keys, accounts, candidate targets with their policy masks. Immutable."""

from __future__ import annotations

from bisect import bisect_right

import msgspec

from entrepot.http1.client import Endpoint
from entrepot.identity.tokens import Verifier
from entrepot.origin.resolve import Egresses, Resolver
from entrepot.policy import Program, Timeline
from entrepot.resources import model as declared
from entrepot.snapshot.published import Issuer
from entrepot.snapshot.revision import Revision


class Candidate(msgspec.Struct, frozen=True, gc=False):
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


class Standing(msgspec.Struct, frozen=True, gc=False):
    """All that the policy knows of a client. Accounts share it.

    `facts` is the policy's `account.*` and `org.*` as a ledger entry has them, beside each of the timeline's masks.
    """

    timeline: Timeline
    facts: tuple[msgspec.Raw, ...]

    def facts_at(self, at_ms: int) -> msgspec.Raw:
        return self.facts[bisect_right(self.timeline.cuts, at_ms)]


class Deployment(msgspec.Struct, frozen=True, gc=False):
    """`candidates` are in the order of priority, then name; `provider` is the first one's. Accounts share them.

    INVARIANT: one tuple of candidates is that of one model and version.
    """

    name: str
    model: str
    version: str
    provider: str
    candidates: tuple[Candidate, ...]


class Account(msgspec.Struct, frozen=True, gc=False):
    """`egress` holds its attested networks."""

    name: str
    organization: declared.Organization
    given: declared.Account
    standing: Standing
    egress: Egresses | None
    deployments: dict[str, Deployment]


class Key(msgspec.Struct, frozen=True, gc=False):
    """Which of its account's keys it is: `key1` or `key2`."""

    account: Account
    name: str


class Snapshot(msgspec.Struct, frozen=True, weakref=True):
    """`keys` maps a key's SHA-256 to its account. `data_domain` begins with a dot; `origin_header` may be empty.

    `models` is by name and version; a model that is only served need not be in it. `warn_ms` is how long before a rule
    takes effect the calls that it will refuse are told. `tokens` verifies what `issuer` issued; `grants` says in which
    scopes (resource ids in lower case) a principal may call models.

    INVARIANT: the keys of an account with `disable_local_auth` are here as well: who knows one is told so.
    """

    revision: Revision
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
    models: dict[tuple[str, str], declared.Model]
    issuer: Issuer | None
    tokens: Verifier | None
    grants: dict[str, tuple[str, ...]]
