"""A publication on its way to one gateway: encrypted to the gateway's key, signed by the control plane's.

The form is written down in docs/publication.md. Does no I/O, and knows nothing of what the message means.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final, Literal, NamedTuple

import msgspec
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from entrepot.errors import Code, Error
from entrepot.snapshot.revision import Revision

Kind = Literal["published", "delta", "trust"]

FORM: Final = b"entrepot-sealed/1"
LONGEST_GATEWAY: Final = 200
_NONCE: Final = bytes(12)  # a key seals one message only, so the nonce need not differ


class Envelope(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The form as it travels, in MessagePack."""

    form: bytes
    gateway: str
    kind: Kind
    epoch: int
    n: int
    ephemeral: bytes
    sealed: bytes
    signature: bytes


class Unsealed(NamedTuple):
    kind: Kind
    revision: Revision
    message: bytes


_decoder = msgspec.msgpack.Decoder(Envelope)


def seal(
    message: bytes, *, to: bytes, signer: Ed25519PrivateKey, gateway: str, kind: Kind, revision: Revision
) -> bytes:
    """Only who holds the private key of `to` (X25519, 32 bytes) can read it. Raises ValueError if that is no key."""
    ephemeral = X25519PrivateKey.generate()
    public = ephemeral.public_key().public_bytes_raw()
    head = _head(gateway, kind, revision)
    key = _key(ephemeral.exchange(X25519PublicKey.from_public_bytes(to)), public, to)
    sealed = ChaCha20Poly1305(key).encrypt(_NONCE, message, head)
    signature = signer.sign(_signed(head, public, sealed))
    return msgspec.msgpack.encode(Envelope(FORM, gateway, kind, revision.epoch, revision.n, public, sealed, signature))


def unseal(
    data: bytes, *, private: X25519PrivateKey, verifier: bytes, gateway: str, held: Revision | None = None
) -> Unsealed:
    """What the control plane with the public key `verifier` (Ed25519, 32 bytes) published for this gateway.

    `held` is the newest revision that the gateway has: an older one, by epoch first, is refused. Raises Error that
    names what is wrong. Nothing is decrypted before the signature has been verified.
    """
    try:
        envelope = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _refused("it is not in the form of one, or cut short") from error
    if envelope.form != FORM:
        raise _refused("it is in a form that this release does not know; bring gateway and control plane together")
    revision = Revision(envelope.epoch, envelope.n)
    head = _head(envelope.gateway, envelope.kind, revision)
    try:
        key = Ed25519PublicKey.from_public_bytes(verifier)
        key.verify(envelope.signature, _signed(head, envelope.ephemeral, envelope.sealed))
    except (InvalidSignature, ValueError) as error:
        raise _refused("its signature is not of the control plane that this gateway enrolled with") from error
    if envelope.gateway != gateway:
        raise _refused(f"it is for the gateway `{envelope.gateway}`, not for `{gateway}`")
    if held is not None and revision < held:
        raise _refused(f"revision {revision} is older than {held}, which this gateway holds")
    try:
        shared = private.exchange(X25519PublicKey.from_public_bytes(envelope.ephemeral))
        sealing = _key(shared, envelope.ephemeral, private.public_key().public_bytes_raw())
        message = ChaCha20Poly1305(sealing).decrypt(_NONCE, envelope.sealed, head)
    except (InvalidTag, ValueError) as error:
        raise _refused("it is sealed to another key than this gateway's; enrol the gateway anew") from error
    return Unsealed(envelope.kind, revision, message)


def _head(gateway: str, kind: Kind, revision: Revision) -> bytes:
    # Length-prefixed, so that no two heads read alike whatever a name holds.
    name = gateway.encode()
    return b"%b\n%d:%b\n%b\n%d.%d\n" % (FORM, len(name), name, kind.encode(), revision.epoch, revision.n)


def _signed(head: bytes, ephemeral: bytes, sealed: bytes) -> bytes:
    return head + sha256(ephemeral + sealed).digest()


def _key(shared: bytes, ephemeral: bytes, to: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt=None, info=FORM + ephemeral + to).derive(shared)


def _refused(why: str) -> Error:
    return Error(Code.UNAUTHENTICATED, f"what the control plane published is refused: {why}", name="SealRefused")
