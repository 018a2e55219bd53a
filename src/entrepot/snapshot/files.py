"""The files of a world → what is published to a gateway: parsed, its secrets looked up, its clients' keys hashed."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

import msgspec

from entrepot.config import Config
from entrepot.errors import Error
from entrepot.policy import shipped, shipped_names
from entrepot.resources.folder import SHIPPED
from entrepot.resources.load import load_world
from entrepot.resources.model import Account, Keys
from entrepot.snapshot.compiled import compile_policy
from entrepot.snapshot.published import Published, unfit
from entrepot.snapshot.revision import Revision

FIRST = Revision(0, 1)


def publish_files(files: Mapping[str, bytes], config: Config, revision: Revision = FIRST) -> Published:
    """Raises WorldInvalid with every mistake of the world, else a missing secret; packs are left for `Compiled`."""
    world = load_world(files, {name.removeprefix(SHIPPED): shipped(name).data for name in shipped_names()}).world
    try:
        accounts = tuple(_hashed(account, config) for account in world.accounts)
        references = {upstream.credential for upstream in world.upstreams} - {"none"}
        secrets = {reference: config.resolve_secret(reference) for reference in sorted(references)}
    except Error as error:
        compile_policy(world.packs)  # mistakes that stand in the files are told first
        raise unfit(error.message, "provide it, then start or reload") from error
    return Published(revision, msgspec.structs.replace(world, accounts=accounts), secrets)


def _hashed(account: Account, config: Config) -> Account:
    """INVARIANT: no client's key leaves this process but as its hash."""
    keys = account.keys
    if all(key is None or key.startswith("sha256:") for key in (keys.key1, keys.key2)):
        return account
    key2 = None if keys.key2 is None else _hash(keys.key2, config)
    return msgspec.structs.replace(account, keys=Keys(_hash(keys.key1, config), key2))


def _hash(key: str, config: Config) -> str:
    if key.startswith("sha256:"):
        return key
    return f"sha256:{sha256(config.resolve_secret(key).encode()).hexdigest()}"
