"""What is sealed to one gateway: read by it, and by nobody else, and only as it was signed."""

from __future__ import annotations

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from entrepot.errors import Code, Error
from entrepot.snapshot import Revision
from entrepot.snapshot.sealed import Envelope, Kind, seal, unseal

OURS, OTHERS = X25519PrivateKey.generate(), X25519PrivateKey.generate()
SIGNER, FORGER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
VERIFIER = SIGNER.public_key().public_bytes_raw()
AT = Revision(1, 7)


def sealed(
    message: bytes = b"a world",
    *,
    to: X25519PrivateKey = OURS,
    signer: Ed25519PrivateKey = SIGNER,
    gateway: str = "gw-1",
    kind: Kind = "published",
    revision: Revision = AT,
) -> bytes:
    public = to.public_key().public_bytes_raw()
    return seal(message, to=public, signer=signer, gateway=gateway, kind=kind, revision=revision)


def why_refused(data: bytes, held: Revision | None = None) -> str:
    with pytest.raises(Error) as raised:
        unseal(data, private=OURS, verifier=VERIFIER, gateway="gw-1", held=held)
    assert raised.value.code is Code.UNAUTHENTICATED
    return raised.value.message


@given(st.binary(max_size=2_000), st.sampled_from(["published", "delta"]), st.integers(0, 9), st.integers(0, 10**9))
@settings(max_examples=30, deadline=None)
def test_what_is_sealed_comes_out(message: bytes, kind: Kind, epoch: int, n: int) -> None:
    data = sealed(message, kind=kind, revision=Revision(epoch, n))
    opened = unseal(data, private=OURS, verifier=VERIFIER, gateway="gw-1")
    assert opened == (kind, Revision(epoch, n), message)


def test_the_same_message_is_never_sealed_alike_and_not_legible() -> None:
    first, second = sealed(b"sk-secret" * 9), sealed(b"sk-secret" * 9)
    assert first != second
    assert b"sk-secret" not in first


@pytest.mark.parametrize(
    ("data", "held", "why"),
    [
        (sealed(gateway="gw-2"), None, "it is for the gateway `gw-2`, not for `gw-1`"),
        (sealed(signer=FORGER), None, "its signature is not of the control plane"),
        (sealed(to=OTHERS), None, "it is sealed to another key"),
        (sealed(), Revision(1, 8), "revision 1.7 is older than 1.8"),
        (sealed(revision=Revision(0, 900)), Revision(1, 2), "revision 0.900 is older than 1.2"),
        (b"", None, "not in the form"),
        (b"\xc1" * 40, None, "not in the form"),
        (sealed()[:-1], None, "not in the form"),
        (sealed() + b"x", None, "not in the form"),
    ],
)
def test_what_is_refused_and_why(data: bytes, held: Revision | None, why: str) -> None:
    assert why in why_refused(data, held)


@pytest.mark.parametrize("held", [AT, Revision(1, 6), Revision(0, 9_999)])
def test_the_held_revision_again_or_a_newer_one_is_taken(held: Revision) -> None:
    assert unseal(sealed(), private=OURS, verifier=VERIFIER, gateway="gw-1", held=held).revision == AT


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("gateway", "gw-1 "),
        ("kind", "delta"),
        ("epoch", 2),
        ("n", 8),
        ("ephemeral", bytes(32)),
        ("ephemeral", b""),
        ("sealed", b""),
        ("signature", bytes(64)),
        ("signature", b""),
    ],
)
def test_no_field_can_be_changed(field: str, value: object) -> None:
    envelope = msgspec.msgpack.decode(sealed(), type=Envelope)
    changed = msgspec.structs.replace(envelope, **{field: value})
    assert "its signature is not of the control plane" in why_refused(msgspec.msgpack.encode(changed))


def test_another_form_says_what_to_do() -> None:
    envelope = msgspec.msgpack.decode(sealed(), type=Envelope)
    data = msgspec.msgpack.encode(msgspec.structs.replace(envelope, form=b"entrepot-sealed/2"))
    assert "a form that this release does not know" in why_refused(data)


def test_every_changed_bit_is_refused() -> None:
    data = sealed()
    for at in range(len(data)):
        for bit in (1, 128):
            why_refused(data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :])
