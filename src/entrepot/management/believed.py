"""What gateways are told to believe, on the ledger: who changes an authority or a key by hand leaves an entry too."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from entrepot.errors import Error
from entrepot.management.changes import ITSELF
from entrepot.management.control import Control
from entrepot.management.keyring import AGAIN_S, Keyring, Keys
from entrepot.storage import EVERYTHING

# A row for each control plane: each has certificates and a ledger of its own.
ROOT: Final = "/entrepot/trust/"
ACTION: Final = "Entrepot.Access/trust/write"

log = logging.getLogger(__name__)


class Believed:
    """Of one control plane. What was changed while it did not run is an entry of its next start."""

    def __init__(self, control: Control, keyring: Keyring) -> None:
        self._control = control
        self._keyring = keyring
        self._told: dict[str, Any] | None = None
        self._problem: str | None = None

    async def watch(self) -> None:
        """Until it is cancelled."""
        while True:
            try:
                await self.look()
            except Exception:  # must survive whatever a change may raise: nobody else would look again
                log.exception("what gateways believe could not be looked at; it is tried again")
            await asyncio.sleep(AGAIN_S)

    async def look(self) -> None:
        """What is another than the ledger says becomes an entry; while that cannot be, it is tried again."""
        try:
            keys = await self._keyring.keys()
            body = body_of(keys, await asyncio.to_thread(self._control.authority.read_bytes))
            if body != self._told:
                await self._tell(body)
                self._told = body
            self._problem = None
        except (Error, OSError, ValueError) as error:
            if self._problem != str(error):
                log.warning("what gateways believe is not on the ledger", extra={"fields": {"problem": str(error)}})
            self._problem = str(error)

    async def _tell(self, body: dict[str, Any]) -> None:
        id = ROOT + self._control.owner  # noqa: A001
        async with self._control.change(ITSELF, ACTION) as change:
            before = await change.get(EVERYTHING, id)
            if before is not None and before.body == body:
                return
            await change.put(change.draft(id, "trust", body, operator=""))  # the instance's: no tenant sees it
        log.info("gateways are told to believe other keys", extra={"fields": body["properties"]})


def body_of(keys: Keys, authority: bytes) -> dict[str, Any]:
    """By fingerprints: the present `authority` and all that are believed, sorted; `publicationKeys`, the newest first.

    Of a certificate that is the SHA-256 of its DER, of a key the first half of the SHA-256 of its 32 bytes, in
    hexadecimal. Raises ValueError for a certificate that is none.
    """
    believed = x509.load_pem_x509_certificates(keys.trust.ca.encode())
    told = {
        "authority": x509.load_pem_x509_certificate(authority).fingerprint(SHA256()).hex(),
        "authorities": sorted(each.fingerprint(SHA256()).hex() for each in believed),
        "publicationKeys": [*keys.signers],
    }
    return {"properties": told}
