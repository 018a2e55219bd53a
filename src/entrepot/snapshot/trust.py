"""What a gateway believes its control plane by. New keys are told, under the old ones, before the old ones go."""

from __future__ import annotations

from hashlib import sha256

import msgspec


class Trust(msgspec.Struct, frozen=True):
    """`ca`: certificate authorities in PEM, any of which may have issued what the control plane shows in TLS.

    `verifier` is the public half (Ed25519, 32 bytes) of the key that signs publications.
    """

    ca: str
    verifier: bytes

    def digest(self) -> str:
        return sha256(msgspec.json.encode(self)).hexdigest()[:32]


def fingerprint(verifier: bytes) -> str:
    return sha256(verifier).hexdigest()[:32]
