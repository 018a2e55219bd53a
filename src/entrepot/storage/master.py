"""The master key, under which secrets are encrypted at rest: AES-256-GCM, the reference as associated data."""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import secrets
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from entrepot.errors import Code, Error

KEY_BYTES = 32
VARIABLE = "ENTREPOT_MASTER_KEY"
FRESH = ".fresh"

_NONCE = 12
_COMMAND_S = 30


class MasterKey:
    """`id` tells keys apart and says nothing about the key. `successor`: a rotation was begun and not finished."""

    def __init__(self, key: bytes, successor: MasterKey | None = None) -> None:
        if len(key) != KEY_BYTES:
            raise Error(Code.NOT_READY, f"a master key has {KEY_BYTES} bytes, this one has {len(key)}")
        self.id = hmac.digest(key, b"entrepot master key id", "sha256")[:8].hex()
        self.successor = successor
        self._key = key
        self._cipher = AESGCM(key)

    def __repr__(self) -> str:
        return f"MasterKey({self.id})"

    @classmethod
    def generate(cls) -> MasterKey:
        return cls(secrets.token_bytes(KEY_BYTES))

    @classmethod
    def from_file(cls, path: Path) -> MasterKey:
        """The key in base64; a new one, readable by its owner only, where there is no file. Raises Error."""
        try:
            if not path.exists():
                cls.generate().write(path)
            fresh = fresh_path(path)
            successor = cls(_read(fresh)) if fresh.exists() else None
            return cls(_read(path), successor)
        except OSError as exc:
            raise Error(Code.NOT_READY, f"the master key `{path}` cannot be read: {exc.strerror}") from exc

    @classmethod
    def from_env(cls, environ: Mapping[str, str], name: str = VARIABLE) -> MasterKey:
        """The key in base64. Raises Error."""
        if name not in environ:
            raise Error(Code.NOT_READY, f"the master key is missing: set the environment variable `{name}`")
        return cls(_decoded(environ[name], f"the environment variable `{name}`"))

    @classmethod
    def from_command(cls, command: Sequence[str]) -> MasterKey:
        """What a program prints, the key in base64; it has 30 seconds. Raises Error, which does not quote it."""
        name = command[0] if command else ""
        try:
            done = subprocess.run(command, capture_output=True, timeout=_COMMAND_S, check=False)  # noqa: S603
        except (OSError, ValueError, subprocess.TimeoutExpired, IndexError) as exc:
            raise Error(
                Code.NOT_READY, f"the master key's command `{name}` cannot be run: {type(exc).__name__}"
            ) from exc
        if done.returncode:
            raise Error(Code.NOT_READY, f"the command `{name}` for the master key ended with status {done.returncode}")
        return cls(_decoded(done.stdout.decode("utf-8", "replace"), f"what the command `{name}` printed"))

    def text(self) -> str:
        """In base64, to be kept somewhere safe."""
        return base64.b64encode(self._key).decode()

    def write(self, path: Path) -> None:
        """Durably, readable by the owner only; never over another file. Raises OSError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        # Under its name only once it is whole: a key cut short by a crash would lock its owner out.
        draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "w", encoding="ascii") as file:
                file.write(self.text() + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.link(draft, path)
        finally:
            draft.unlink()
        sync_folder(path.parent)

    def seal(self, ref: str, value: bytes) -> bytes:
        nonce = secrets.token_bytes(_NONCE)
        return nonce + self._cipher.encrypt(nonce, value, ref.encode())

    def open(self, ref: str, sealed: bytes) -> bytes:
        """Raises Error where it was sealed under another key or for another reference, or was changed."""
        try:
            return self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], ref.encode())
        except (InvalidTag, ValueError) as exc:
            raise Error(Code.NOT_READY, f"the secret `{ref}` cannot be decrypted: it was changed or moved") from exc


def fresh_path(path: Path) -> Path:
    """Where a rotation keeps the new key until the database is under it."""
    return path.with_name(path.name + FRESH)


def sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _read(path: Path) -> bytes:
    return _decoded(path.read_text(encoding="utf-8", errors="replace"), f"the file `{path}`")


def _decoded(text: str, what: str) -> bytes:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise Error(Code.NOT_READY, f"{what} holds no master key: it has to be {KEY_BYTES} bytes in base64")
    return key
