"""The keys that gateways believe: those that sign publications, in the database, and the authorities in `DATA/ca`.

A new key is in use at once, and the one before as well, for gateways that have not heard of the new one yet.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from entrepot.errors import Code, Error
from entrepot.identity.certificates import trusted
from entrepot.snapshot.trust import Trust, fingerprint
from entrepot.storage import MasterKey, Store

# Of the instance, so that gateways know every control plane over the same database.
SIGNER: Final = "/entrepot/publication/key"
BEFORE: Final = "/entrepot/publication/key-before"
AGAIN_S: Final = 2.0
UNKNOWN_S: Final = 0.5

log = logging.getLogger(__name__)


class Keys(NamedTuple):
    """`signers` by the fingerprints of their public halves, the newest first."""

    signers: dict[str, Ed25519PrivateKey]
    trust: Trust

    def signer(self, believed: str) -> Ed25519PrivateKey:
        """The one that a gateway believes; the newest where that is none of ours, which it will refuse."""
        return self.signers.get(believed) or next(iter(self.signers.values()))


class Keyring:
    """As the database and the folder hold them: they are read anew now and then, and for a key that is not known."""

    def __init__(self, store: Store, folder: Path) -> None:
        self._store = store
        self._folder = folder
        self._keys: Keys | None = None
        self._read_s = 0.0
        self._reading = asyncio.Lock()

    async def keys(self, believed: str = "") -> Keys:
        """`believed` is the fingerprint of what a gateway believes now.

        While they cannot be read, those that are known, so that gateways are told what is published with the database
        away. Raises Error where none are.
        """
        async with self._reading:
            age_s = time.monotonic() - self._read_s
            known = self._keys is not None and believed in {"", *self._keys.signers}
            if self._keys is None or age_s >= (AGAIN_S if known else UNKNOWN_S):
                self._keys = await self._renewed(self._keys)
                self._read_s = time.monotonic()
            return self._keys

    async def _renewed(self, known: Keys | None) -> Keys:
        try:
            return await self._read()
        except (Error, OSError) as error:
            if known is None:
                raise
            log.warning("new keys cannot be looked for", extra={"fields": {"problem": str(error)}})
            return known

    async def _read(self) -> Keys:
        held = await self._store.secrets(SIGNER)
        found = [Ed25519PrivateKey.from_private_bytes(held[ref]) for ref in (SIGNER, BEFORE) if ref in held]
        if not found:
            raise Error(Code.NOT_READY, "the key that signs publications is gone; restore it from a backup")
        publics = [each.public_key().public_bytes_raw() for each in found]
        signers = {fingerprint(public): each for public, each in zip(publics, found, strict=True)}
        return Keys(signers, Trust(await asyncio.to_thread(trusted, self._folder), publics[0]))


async def renew_signer(url: str, master: MasterKey) -> int:
    """Publications are signed by a new key from here on, but for gateways that believe the one before. Raises Error.

    The one before that is no longer believed. How many keys there are now; control planes may run meanwhile.
    """
    store = await Store.open(url, master)
    try:
        async with store.change() as transaction:
            key = await transaction.secret(SIGNER)
            if key is not None:
                await transaction.put_secret(BEFORE, key)
            await transaction.put_secret(SIGNER, Ed25519PrivateKey.generate().private_bytes_raw())
    finally:
        await store.close()
    return 1 if key is None else 2
