"""What calls are decided by, whole."""

from __future__ import annotations

import msgspec

from entrepot.http1.client import Endpoint
from entrepot.identity.tokens import Verifier
from entrepot.origin.resolve import Resolver
from entrepot.policy import Program
from entrepot.resources import model as declared
from entrepot.snapshot.parts import Account, Key
from entrepot.snapshot.published import Issuer
from entrepot.snapshot.revision import Revision


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
