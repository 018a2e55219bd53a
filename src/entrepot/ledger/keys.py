"""The signing key of a gateway: made at first start, its private half readable by its owner only."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from entrepot.ledger.faults import LedgerRefused
from entrepot.ledger.files import Files
from entrepot.ledger.note import sign_note
from entrepot.ledger.verify import Key, Unproved, folder_name, key_of, read_key


class Signer(NamedTuple):
    key: Key
    private: Ed25519PrivateKey

    def sign(self, text: str) -> bytes:
        return sign_note(text, self.key, self.private)


def find_signer(data: Path, name: str, files: Files) -> Signer:
    """The key called `name` of a data folder; made if there is none. Safe when several processes start at once.

    `keys/NAME.vkey` is the verifier key to hand out, `keys/NAME.key` the private half: the 32 bytes of RFC 8032 in
    hexadecimal. Slashes of the name are underscores in file names. Raises LedgerRefused when the two do not match.
    """
    folder = data / "keys"
    public, secret = (folder / f"{folder_name(name)}.{kind}" for kind in ("vkey", "key"))
    if not secret.exists():
        if public.exists():
            raise LedgerRefused(
                f"the private key `{secret}` is missing, but `{public}` was handed out; restore it, or move"
                " the ledger's folder away and give the gateway another `log_name`"
            )
        _make(secret, files)
    try:
        private = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret.read_text(encoding="ascii").strip()))
    except ValueError as wrong:
        raise LedgerRefused(f"the private key `{secret}` is damaged; restore it from a copy") from wrong
    key = key_of(name, private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))
    if not public.exists():
        files.replace(public, f"{key}\n".encode())
    try:
        written = read_key(public.read_text(encoding="utf-8"))
    except (Unproved, UnicodeDecodeError) as wrong:
        raise LedgerRefused(
            f"the verifier key `{public}` is damaged: {wrong}; remove it to have it made again"
        ) from wrong
    if written != key:
        raise LedgerRefused(f"`{public}` is not the verifier key of `{secret}`; restore the pair that belongs together")
    return Signer(key, private)


def _make(secret: Path, files: Files) -> None:
    """The private half comes first and is durable before anything is signed with it."""
    secret.parent.mkdir(parents=True, exist_ok=True)
    beside = secret.with_name(f".{secret.name}.{os.getpid()}.new")
    beside.unlink(missing_ok=True)
    fd = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        files.write(fd, Ed25519PrivateKey.generate().private_bytes_raw().hex().encode() + b"\n", 0)
        files.sync(fd)
    finally:
        files.close(fd)
    with contextlib.suppress(FileExistsError):  # another process was first: its key is the key
        os.link(beside, secret)
    beside.unlink()
    files.sync_folder(secret.parent)
