"""The instance's own certificate authority and its server certificate, for those who have no other (RFC 5280).

Both keys are ECDSA P-256 and stand in files that only their owner can read.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from entrepot.errors import Code, Error

CA_DAYS = 3_650
SERVER_DAYS = 825  # what clients still take of a certificate that no public authority signed
RENEW_DAYS = 30
_BACK = timedelta(minutes=5)  # for clients whose clocks are behind


class Issued(NamedTuple):
    """Files in PEM. `renewed`: whether the server certificate was made just now."""

    ca: Path
    certificate: Path
    key: Path
    renewed: bool


def ensure(folder: Path, hosts: Sequence[str], now: datetime | None = None) -> Issued:
    """The authority, made at the first call, and a server certificate for `hosts`, names or addresses.

    The server certificate is made anew when fewer than 30 days remain of it, when it lacks one of `hosts`, or when it
    does not fit its key or the authority. Clients keep trusting the authority through that. Raises Error.
    """
    now = now or datetime.now(UTC)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        ca, ca_key = _authority(folder, now)
        files = Issued(folder / "ca.pem", folder / "server.pem", folder / "server.key", renewed=False)
        if _good(files, ca, hosts, now):
            return files
        _make_server(files, ca, ca_key, hosts, now)
    except (OSError, ValueError) as error:
        raise Error(Code.NOT_READY, f"the certificates in `{folder}` cannot be used: {error}") from error
    return files._replace(renewed=True)


def renew(folder: Path, now: datetime | None = None) -> datetime:
    """A new server certificate with a new key, for the names of the present one. Until when it holds. Raises Error.

    The one before is not revoked: whoever has its key can show it until it ends. A server that runs may take it over.
    """
    now = now or datetime.now(UTC)
    files = Issued(folder / "ca.pem", folder / "server.pem", folder / "server.key", renewed=True)
    try:
        for each in (files.ca, files.certificate):
            if not each.exists():
                raise Error(Code.NOT_READY, f"there is no `{each}`: a start of the control plane makes it")
        ca, ca_key = _authority(folder, now)
        names = x509.load_pem_x509_certificate(files.certificate.read_bytes()).extensions
        given = names.get_extension_for_class(x509.SubjectAlternativeName).value
        _make_server(files, ca, ca_key, [str(each.value) for each in given], now)
    except (OSError, ValueError, x509.ExtensionNotFound) as error:
        raise Error(Code.NOT_READY, f"the certificates in `{folder}` cannot be used: {error}") from error
    return now + timedelta(days=SERVER_DAYS)


def prepare(folder: Path, now: datetime | None = None) -> Path:
    """An authority that is to follow, which clients can come to trust before it is in use. Its file. Raises Error.

    The one before the present one is told no more.
    """
    try:
        if (folder / "next.pem").exists():
            told = "there is one already that waits to be taken: `entrepot storage take-authority`"
            raise Error(Code.CONFLICT, told)
        if not (folder / "ca.pem").exists():
            raise Error(Code.NOT_READY, f"there is no `{folder / 'ca.pem'}`; name the data folder with `--data`")
        (folder / "before.pem").unlink(missing_ok=True)
        _authority(folder, now or datetime.now(UTC), "next")
    except (OSError, ValueError) as error:
        raise Error(Code.NOT_READY, f"the certificates in `{folder}` cannot be used: {error}") from error
    return folder / "next.pem"


def take(folder: Path) -> None:
    """The prepared authority takes the place of the present one, whose key is no more. Raises Error.

    The certificate before stays in `before.pem`, for control planes that have not taken the new one yet. The next
    `ensure` makes the server's certificate. What was cut short is finished.
    """
    certificate, key = folder / "next.pem", folder / "next.key"
    if not certificate.exists():
        raise Error(Code.NOT_READY, "no authority waits to be taken: `entrepot storage new-authority` makes one")
    try:
        if key.exists():
            _write(folder / "before.pem", (folder / "ca.pem").read_bytes(), mode=0o644)
            key.replace(folder / "ca.key")
        # Killed before this, the key does not fit the certificate: a start says so, and this is done again.
        certificate.replace(folder / "ca.pem")
    except OSError as error:
        raise Error(Code.NOT_READY, f"the certificates in `{folder}` cannot be used: {error}") from error


def trusted(folder: Path) -> str:
    """All authorities that clients of this folder's server are to believe, in PEM; empty where there is none."""
    found = [folder / f"{name}.pem" for name in ("ca", "next", "before")]
    # Sorted: control planes that have taken the new one, and those that have not yet, say the same.
    return "".join(sorted({each.read_text(encoding="ascii").strip() + "\n" for each in found if each.exists()}))


def _authority(folder: Path, now: datetime, called: str = "ca") -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    certificate, key_file = folder / f"{called}.pem", folder / f"{called}.key"
    if certificate.exists():
        ca = x509.load_pem_x509_certificate(certificate.read_bytes())
        key = _read_key(key_file)
        if key.public_key() != ca.public_key():
            raise ValueError("ca.key is not the key of ca.pem")
        return ca, key
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Entrepot {secrets.token_hex(4)}")])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    ca = (
        _begun(name, name, key, now, CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(key, hashes.SHA256())
    )
    # The certificate last: a start that was killed before it begins anew, and nobody has trusted that key.
    _write(key_file, _pem(key))
    _write(certificate, ca.public_bytes(Encoding.PEM), mode=0o644)
    return ca, key


def _make_server(
    files: Issued, ca: x509.Certificate, ca_key: ec.EllipticCurvePrivateKey, hosts: Sequence[str], now: datetime
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])])
    made = (
        _begun(name, ca.subject, key, now, SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([_general(host) for host in hosts]), critical=False)
        .add_extension(_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()),
            critical=False,
        )
        .sign(ca_key, hashes.SHA256())
    )
    # Killed between the two, the pair does not fit, and the next start makes another.
    _write(files.key, _pem(key))
    _write(files.certificate, made.public_bytes(Encoding.PEM), mode=0o644)


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACK)
        .not_valid_after(now + timedelta(days=days))
    )


def _good(files: Issued, ca: x509.Certificate, hosts: Sequence[str], now: datetime) -> bool:
    if not files.certificate.exists() or not files.key.exists():
        return False
    try:
        held = x509.load_pem_x509_certificate(files.certificate.read_bytes())
        key = _read_key(files.key)
        held.verify_directly_issued_by(ca)
        names = held.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    if key.public_key() != held.public_key() or held.not_valid_after_utc - now < timedelta(days=RENEW_DAYS):
        return False
    return all(_general(host) in list(names) for host in hosts)


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{path.name} is no ECDSA key")  # noqa: TRY004 - it is the file that is wrong
    return key


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Whole or not at all, and never readable by others for a moment."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
