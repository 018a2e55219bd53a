from __future__ import annotations

import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from entrepot.errors import Error
from entrepot.identity.certificates import RENEW_DAYS, SERVER_DAYS, ensure, renew

HOSTS = ("localhost", "127.0.0.1", "::1", "box.example")
NOW = datetime(2026, 11, 22, tzinfo=UTC)


def read(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_a_first_call_makes_an_authority_and_a_certificate_for_every_host(tmp_path: Path) -> None:
    made = ensure(tmp_path / "ca", HOSTS, NOW)
    assert made.renewed
    ca, server = read(made.ca), read(made.certificate)
    server.verify_directly_issued_by(ca)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "box.example"]
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    assert (server.not_valid_after_utc - NOW).days == SERVER_DAYS
    assert (ca.not_valid_after_utc - NOW).days == 3_650
    for path in (made.key, made.ca.with_name("ca.key")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    context = ssl.create_default_context(cafile=str(made.ca))
    context.load_cert_chain(made.certificate, made.key)


def test_a_second_call_changes_nothing(tmp_path: Path) -> None:
    made = ensure(tmp_path, HOSTS, NOW)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert ensure(tmp_path, HOSTS, NOW + timedelta(days=1)) == made._replace(renewed=False)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("hosts", "later"),
    [((*HOSTS, "new.example"), timedelta(0)), (HOSTS, timedelta(days=SERVER_DAYS - RENEW_DAYS + 1))],
)
def test_a_new_host_or_a_near_end_renews_under_the_same_authority(
    tmp_path: Path, hosts: tuple[str, ...], later: timedelta
) -> None:
    made = ensure(tmp_path, HOSTS, NOW)
    ca = made.ca.read_bytes()
    again = ensure(tmp_path, hosts, NOW + later)
    assert again.renewed
    assert again.ca.read_bytes() == ca
    read(again.certificate).verify_directly_issued_by(read(again.ca))


def test_a_certificate_is_renewed_for_the_same_names(tmp_path: Path) -> None:
    made = ensure(tmp_path, HOSTS, NOW)
    ca, before, key = made.ca.read_bytes(), read(made.certificate), made.key.read_bytes()
    later = NOW + timedelta(days=100)
    assert renew(tmp_path, later) == later + timedelta(days=SERVER_DAYS)
    after = read(made.certificate)
    assert made.ca.read_bytes() == ca
    assert made.key.read_bytes() != key
    assert after.serial_number != before.serial_number
    assert after.subject == before.subject
    names = [each.extensions.get_extension_for_class(x509.SubjectAlternativeName).value for each in (before, after)]
    assert names[0] == names[1]
    assert not ensure(tmp_path, HOSTS, later).renewed
    made.certificate.unlink()
    with pytest.raises(Error, match=r"there is no `.*server\.pem`: a start of the control plane makes it"):
        renew(tmp_path, later)


def test_a_start_that_was_killed_between_key_and_certificate_heals(tmp_path: Path) -> None:
    made = ensure(tmp_path, HOSTS, NOW)
    other = ensure(tmp_path / "other", HOSTS, NOW)
    made.key.write_bytes(other.key.read_bytes())
    assert ensure(tmp_path, HOSTS, NOW).renewed
    assert not ensure(tmp_path, HOSTS, NOW).renewed


def test_an_authority_whose_key_is_gone_or_another_is_an_error_not_a_new_authority(tmp_path: Path) -> None:
    made = ensure(tmp_path, HOSTS, NOW)
    other = ensure(tmp_path / "other", HOSTS, NOW)
    key = tmp_path / "ca.key"
    key.write_bytes(other.ca.with_name("ca.key").read_bytes())
    with pytest.raises(Error, match=r"ca\.key is not the key of ca\.pem"):
        ensure(tmp_path, HOSTS, NOW)
    key.unlink()
    with pytest.raises(Error, match="cannot be used"):
        ensure(tmp_path, HOSTS, NOW)
    assert made.ca.exists()
