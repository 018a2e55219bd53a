"""A gateway's enrolment at a control plane: a one-time token becomes keys and a secret in the gateway's data folder."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import ssl
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from entrepot import __version__
from entrepot.errors import Code, Error
from entrepot.gateway.remote import Answer, Remote, pinned
from entrepot.http1.client import Fault
from entrepot.snapshot.trust import Trust

CONTROL: Final = "control.json"
SEALING: Final = "sealing.key"
SNAPSHOT: Final = "snapshot.sealed"
_TOKEN: Final = re.compile(r"enrol-(?P<name>[A-Za-z0-9][\w.-]{0,127})-\w{16,128}-(?P<ca>[0-9a-f]{32})", re.ASCII)
KEY_BYTES: Final = 32
AFRESH: Final = "ask the control plane for a new token and start once with `--enrol TOKEN`"


class Token(NamedTuple):
    """`ca` is the beginning of the SHA-256 of the control plane's certificate authority, in hexadecimal digits."""

    text: str
    gateway: str
    ca: str

    @property
    def digest(self) -> str:
        return sha256(self.text.encode()).hexdigest()


class Enrolled(msgspec.Struct, frozen=True):
    """What `control.json` holds. `ca` is in PEM, `verifier` in base64; `token` is the digest of the one that was used.

    `before` is the verifier that was believed before, which counts for what is on disk only.

    The secret is what the gateway shows at every question; the control plane holds its hash.
    """

    url: str
    gateway: str
    secret: str
    verifier: bytes
    ca: str
    token: str = ""
    before: bytes = b""

    @property
    def trust(self) -> Trust:
        return Trust(self.ca, self.verifier)

    def __repr__(self) -> str:
        return f"Enrolled({self.gateway} at {self.url})"


class _Granted(msgspec.Struct, frozen=True):
    """The control plane's answer."""

    gateway: str
    secret: str
    verifier: bytes
    epoch: int = 0


def read_token(text: str) -> Token:
    """Raises Error; the message does not repeat the token."""
    found = _TOKEN.fullmatch(text.strip())
    if found is None:
        raise Error(Code.BAD_REQUEST, "this is not an enrolment token, or not the whole of one; " + AFRESH)
    return Token(found[0], found["name"], found["ca"])


def enrolled(data: Path) -> Enrolled | None:
    """What the folder holds of an earlier enrolment. Raises Error if it cannot be read."""
    path = data / CONTROL
    try:
        return msgspec.json.decode(path.read_bytes(), type=Enrolled)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise Error(Code.NOT_READY, f"`{path}` cannot be read: {error}; remove it and enrol anew") from error


def sealing_key(data: Path) -> X25519PrivateKey:
    """The key that publications for this gateway are sealed to. Raises Error if there is none."""
    path = data / SEALING
    try:
        return X25519PrivateKey.from_private_bytes(base64.b64decode(path.read_bytes().strip(), validate=True))
    except (OSError, ValueError) as error:
        raise Error(Code.NOT_READY, f"`{path}` holds no key of this gateway; {AFRESH}") from error


async def enrol(url: str, token: Token, data: Path) -> Enrolled:
    """Use the token up. Nothing that the folder holds changes before the control plane has agreed. Raises Error."""
    ca = await _authority(url, token)
    private = X25519PrivateKey.generate()
    asked = {
        "token": token.text,
        "name": token.gateway,
        "sealing_key": base64.b64encode(private.public_key().public_bytes_raw()).decode(),
        "version": __version__,
    }
    remote = Remote.pinned(url, ca)
    try:
        answer = await remote.post("/entrepot/enrol", msgspec.json.encode(asked))
    except Fault as fault:
        hint = "; if it is used now, " + AFRESH if fault.sent else ""
        raise Error(Code.NOT_READY, f"the control plane cannot be reached: {fault}{hint}") from fault
    finally:
        await remote.close()
    granted = _granted(answer, token)
    made = Enrolled(remote.url, granted.gateway, granted.secret, granted.verifier, ca, token.digest)
    await asyncio.to_thread(_keep, data, private, made)
    return made


async def _authority(url: str, token: Token) -> str:
    """The certificate authority in PEM, which is what the token says it is."""
    remote = Remote.unverified(url)
    try:
        answer = await remote.get("/entrepot/ca.pem", [])
    except Fault as fault:
        raise Error(Code.NOT_READY, f"the control plane cannot be reached: {fault}") from fault
    finally:
        await remote.close()
    try:
        found = ssl.PEM_cert_to_DER_cert(answer.body.decode("ascii").strip()) if answer.status == 200 else b""
    except (ValueError, UnicodeDecodeError):
        found = b""
    # INVARIANT: nothing of the token leaves before the one that would receive it is known to be who issued it.
    if sha256(found).hexdigest()[: len(token.ca)] != token.ca:
        raise Error(
            Code.UNAUTHENTICATED,
            f"what answers at {remote.url} is not the control plane that issued this token: its certificate authority "
            "does not match; check the address, and whether somebody stands between",
        )
    return ssl.DER_cert_to_PEM_cert(found)


def _granted(answer: Answer, token: Token) -> _Granted:
    if answer.status != 200:
        raise Error(Code.UNAUTHENTICATED, f"the control plane refuses to enrol `{token.gateway}`: {told(answer)}")
    try:
        granted = msgspec.json.decode(answer.body, type=_Granted)
    except msgspec.DecodeError as error:
        raise Error(Code.NOT_READY, "the control plane's answer to the enrolment cannot be read") from error
    if granted.gateway != token.gateway or len(granted.verifier) != KEY_BYTES or not granted.secret:
        raise Error(Code.NOT_READY, "the control plane's answer to the enrolment is not one for this gateway")
    return granted


def told(answer: Answer) -> str:
    """What an error of the control plane says, in the envelope of its management API."""
    try:
        error = msgspec.json.decode(answer.body)["error"]
        return f"{error['message']} ({answer.status} {error['code']})"
    except (msgspec.DecodeError, KeyError, TypeError):
        return f"status {answer.status}"


def _keep(data: Path, private: X25519PrivateKey, made: Enrolled) -> None:
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(data / SEALING, base64.b64encode(private.private_bytes_raw()) + b"\n")
    write_private(data / CONTROL, msgspec.json.format(msgspec.json.encode(made)) + b"\n")
    (data / SNAPSHOT).unlink(missing_ok=True)  # sealed to the key before


def keep_trust(data: Path, known: Enrolled, trust: Trust) -> Enrolled:
    """Believe this from here on, durably. Raises Error for what is none, OSError; then nothing has changed."""
    if len(trust.verifier) != KEY_BYTES:
        raise Error(Code.UNAUTHENTICATED, "what the control plane wants to be believed by is no key")
    pinned(trust.ca)
    before = known.verifier if known.verifier != trust.verifier else known.before
    made = msgspec.structs.replace(known, ca=trust.ca, verifier=trust.verifier, before=before)
    write_private(data / CONTROL, msgspec.json.format(msgspec.json.encode(made)) + b"\n")
    return made


def write_private(path: Path, data: bytes) -> None:
    """The file is, durably, either as it was or `data`, readable by its owner only. Raises OSError."""
    beside = path.with_name(f".{path.name}.new")  # one name, so that those who are killed leave one file
    beside.unlink(missing_ok=True)
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
