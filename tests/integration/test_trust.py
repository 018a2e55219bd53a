"""New keys of a control plane reach its gateways under the old ones: none of them is cut off."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from changing import changes_of
from entrepot.errors import Code, Error
from entrepot.gateway.control import ControlSource
from entrepot.gateway.enrolment import Enrolled, enrolled, write_private
from entrepot.identity.certificates import ensure, prepare, take, trusted
from entrepot.ledger.entries import Change
from entrepot.management.believed import Believed
from entrepot.management.changes import digest_of
from entrepot.management.keyring import AGAIN_S, Keyring, renew_signer
from entrepot.snapshot import Revision
from entrepot.snapshot.sealed import seal
from entrepot.snapshot.trust import Trust, fingerprint
from entrepot.storage import EVERYTHING, MasterKey, Store, Tenancy
from servings import arguments, children, manage, serving, until
from worlds import MASTER, open_control

ACCESS = "/providers/Entrepot.Access"


def storage(data: Path, *words: str) -> str:
    command = [sys.executable, "-m", "entrepot", "storage", *words, "--data", str(data)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def held(data: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((data / "gateways/gateway-1/control.json").read_text())
    return found


def status(client: httpx.Client) -> dict[str, Any]:
    answer = client.get(f"{ACCESS}/gateways/gateway-1")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["properties"]["status"]
    return found


def trusts(client: httpx.Client, data: Path, true: Any) -> None:
    """The gateway holds what is looked for, and the control plane knows that it does."""

    def look() -> bool | None:
        return True if true(held(data)) and status(client)["trusted"] else None

    until(look, "the gateway believes the new keys")


def change(client: httpx.Client, name: str) -> None:
    changed = client.patch(f"{ACCESS}/regions/local", json={"properties": {"displayName": name}})
    assert changed.status_code == 200, changed.text


def soon(client: httpx.Client, name: str) -> None:
    """The control plane has looked at its keys, and the gateway asks again: not only when it has waited long enough."""
    time.sleep(AGAIN_S + 0.5)
    change(client, name)


def follows(client: httpx.Client, name: str) -> None:
    """A change, sent from here on, is in force at the gateway."""
    change(client, name)
    revision = client.get("/healthz").json()["revision"]
    until(lambda: True if status(client)["revision"] == revision else None, "the change in force")


def shown_by(url: str) -> bytes:
    """The certificate that the control plane shows, in DER."""
    host, _, port = url.removeprefix("https://").partition(":")
    return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((host, int(port))))


@pytest.mark.timeout(300)
def test_a_gateway_outlives_new_publication_keys_and_a_new_authority(tmp_path: Path) -> None:
    data, given = tmp_path / "data", arguments()
    with serving(data, *given) as (process, told):
        url, gateway = told["management"], children(process.pid)["gateway"]
        with manage(data, url) as client:
            trusts(client, data, lambda known: known["ca"].strip() == (data / "ca/ca.pem").read_text().strip())
            first = held(data)["verifier"]
            on_disk = (data / "gateways/gateway-1/snapshot.sealed").read_bytes()
            storage(data, "new-publication-key")
            trusts(client, data, lambda known: known["verifier"] != first)
            assert held(data)["before"] == first
            follows(client, "one")
            # Twice in a row: each time the one before is what it is told under.
            second = held(data)["verifier"]
            storage(data, "new-publication-key")
            soon(client, "one and a half")
            trusts(client, data, lambda known: known["verifier"] not in {first, second})
            follows(client, "two")
            kept = data / "gateways/gateway-1/snapshot.sealed"
            assert kept.read_bytes()[:64] != on_disk[:64]

            old = (data / "ca/ca.pem").read_text()
            assert "next.pem" in storage(data, "new-authority")
            soon(client, "two and a half")
            trusts(client, data, lambda known: known["ca"].count("BEGIN CERTIFICATE") == 2)
            before = shown_by(url)
            follows(client, "three")  # the present authority is shown as before
            assert shown_by(url) == before
        storage(data, "take-authority")
        assert (data / "ca/before.pem").read_text() == old
        assert (data / "ca/ca.pem").read_text() != old
        control = children(process.pid)["control"]
        os.kill(control, signal.SIGTERM)
        until(lambda: True if children(process.pid).get("control", control) != control else None, "a restart")
        until(lambda: up(data, url), "an answer under the new authority")
        assert shown_by(url) != before
        with manage(data, url) as client:
            follows(client, "four")
            trusts(client, data, lambda known: known["ca"].count("BEGIN CERTIFICATE") == 2)
        assert children(process.pid)["gateway"] == gateway, "the gateway was not restarted"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    # With the control plane dead it starts from what it has, whoever signed that.
    command = [sys.executable, "-m", "entrepot", "gateway", "--control", url]
    command += ["--data", str(data / "gateways/gateway-1")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as alone:
        ended = threading.Timer(60, alone.kill)
        ended.start()
        try:
            assert alone.stdout is not None
            assert alone.stdout.readline().startswith("serving ")
        finally:
            ended.cancel()
            alone.terminate()


@pytest.mark.timeout(120)
def test_a_new_certificate_is_shown_at_once_and_cuts_nobody_off(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with serving(data, *arguments()) as (process, told):
        url, running = told["management"], children(process.pid)
        before = shown_by(url)
        host, _, port = url.removeprefix("https://").partition(":")
        context = ssl.create_default_context(cafile=str(data / "ca/ca.pem"))
        connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=30)
        asked(connection)
        kept = connection.sock
        with kept_alive(connection):
            said = storage(data, "new-certificate")
            until(lambda: True if shown_by(url) != before else None, "the new certificate is shown")
        held_until = x509.load_pem_x509_certificate((data / "ca/server.pem").read_bytes()).not_valid_after_utc
        assert f"until {held_until:%Y-%m-%d}" in said
        asked(connection)
        assert connection.sock is kept, "the connection lived on"
        connection.close()
        # A pair that does not fit is not shown, and one that does after it is.
        now = shown_by(url)
        good = (data / "ca/server.key").read_bytes()
        (data / "ca/server.key").write_bytes((data / "ca/ca.key").read_bytes())
        until(lambda: "cannot be shown yet" in (tmp_path / "stderr").read_text() or None, "the pair is refused")
        assert shown_by(url) == now
        (data / "ca/server.key").write_bytes(good)
        storage(data, "new-certificate")
        until(lambda: True if shown_by(url) != now else None, "the next certificate is shown")
        with manage(data, url) as client:
            follows(client, "after it")
        assert children(process.pid) == running, "nothing was restarted"


@contextmanager
def kept_alive(connection: http.client.HTTPSConnection) -> Iterator[None]:
    """Idle, it would be closed after some seconds."""
    over = threading.Event()

    def ask() -> None:
        while not over.wait(0.2):
            asked(connection)

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        try:
            yield
        finally:
            over.set()
        asking.result()


def asked(connection: http.client.HTTPSConnection) -> None:
    connection.request("GET", "/healthz")
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 200


def up(data: Path, url: str) -> bool | None:
    try:
        with manage(data, url):
            return True
    except httpx.TransportError:
        return None


def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    for words in (["take-authority"], ["new-authority"], ["new-certificate"], ["new-publication-key"]):
        command = [sys.executable, "-m", "entrepot", "storage", *words, "--data", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1
        assert done.stderr.startswith("it was not done: there is no `")
        assert "Traceback" not in done.stderr


def test_a_key_is_known_at_once_to_whoever_is_shown_it(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two control planes over one database: a gateway that heard of it from one asks the other."""
    monkeypatch.setattr("entrepot.management.keyring.AGAIN_S", 1e9)
    monkeypatch.setattr("entrepot.management.keyring.UNKNOWN_S", 0.0)
    master = MasterKey(bytes(32))

    async def work() -> None:
        assert await renew_signer(url, master) == 1
        store = await Store.open(url, master)
        one, two = Keyring(store, tmp_path), Keyring(store, tmp_path)
        believed = [fingerprint((await one.keys()).trust.verifier)]
        assert (await two.keys()).trust == (await one.keys()).trust
        for _ in range(2):
            assert await renew_signer(url, master) == 2
            assert fingerprint((await one.keys()).trust.verifier) == believed[-1]  # it was not told yet
            new = Keyring(store, tmp_path)
            believed.append(fingerprint((await new.keys()).trust.verifier))
            for keyring in (one, two):
                keys = await keyring.keys(believed[-1])
                assert fingerprint(keys.trust.verifier) == believed[-1]
                for each in believed[-2:]:
                    assert fingerprint(keys.signer(each).public_key().public_bytes_raw()) == each
        # The one before the last is not signed by any more, whoever asks for it.
        given = (await one.keys(believed[0])).signer(believed[0])
        assert fingerprint(given.public_key().public_bytes_raw()) == believed[-1]
        await store.close()

    asyncio.run(work())


def test_what_gateways_are_to_believe_is_on_the_ledger(tmp_path: Path) -> None:
    url, ca = f"sqlite:///{tmp_path / 'control.db'}", tmp_path / "ca"

    def told() -> list[Change]:
        return [each for _, each in changes_of(tmp_path) if each.action == "Entrepot.Access/trust/write"]

    async def run(begun: int) -> int:
        """How many entries there are after one of each change; looking again adds none."""
        control = await open_control(tmp_path, url)
        try:
            believed = Believed(control, Keyring(control.store, ca))
            await believed.look()
            assert len(told()) == begun + 1
            for number, step in enumerate((lambda: renew_signer(url, MASTER), lambda: prepare(ca), lambda: take(ca))):
                if asyncio.iscoroutine(doing := step()):
                    await doing
                believed = Believed(control, Keyring(control.store, ca))  # which reads anew at once
                for _ in range(2):
                    await believed.look()
                assert len(told()) == begun + 2 + number
            (resource,) = told()[-1].resources
            row = await control.store.get(EVERYTHING, resource.resource)
            assert row is not None
            assert digest_of(row) == resource.digest
            present, before = (fingerprint_of(ca / name) for name in ("ca.pem", "before.pem"))
            properties = row.body["properties"]
            assert (properties["authority"], properties["authorities"]) == (present, sorted((present, before)))
            assert len(properties["publicationKeys"]) == 2
            assert await control.store.get(Tenancy(), resource.resource) is None
            return len(told())
        finally:
            await control.close()

    ensure(ca, ["localhost"])
    first = asyncio.run(run(0))
    (ca / "before.pem").unlink()  # by hand, while nothing runs
    assert asyncio.run(run(first)) == first + 4
    assert first == 4


def fingerprint_of(file: Path) -> str:
    return x509.load_pem_x509_certificate(file.read_bytes()).fingerprint(hashes.SHA256()).hex()


def test_with_the_database_away_gateways_are_told_by_the_keys_that_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("entrepot.management.keyring.AGAIN_S", 0.0)
    url, master = f"sqlite:///{tmp_path}/control.db", MasterKey(bytes(32))

    async def work() -> None:
        await renew_signer(url, master)
        store = await Store.open(url, master)
        keyring, late = Keyring(store, tmp_path), Keyring(store, tmp_path)
        known = await keyring.keys()

        async def away(prefix: str = "") -> dict[str, bytes]:
            raise Error(Code.NOT_READY, f"the database does not answer {prefix}")

        with monkeypatch.context() as broken:
            broken.setattr(store, "secrets", away)
            assert await keyring.keys() is known
            with pytest.raises(Error):
                await late.keys()
        await renew_signer(url, master)
        assert (await keyring.keys()).trust != known.trust
        await store.close()

    asyncio.run(work())


def test_what_gateways_believe_is_looked_at_again_whatever_became_of_a_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("entrepot.management.believed.AGAIN_S", 0.0)
    looks = 0

    class Failing(Believed):
        async def look(self) -> None:
            nonlocal looks
            looks += 1
            if looks == 3:
                raise asyncio.CancelledError
            raise RuntimeError("a statement that is wrong")

    async def work() -> None:
        store = await Store.open(f"sqlite:///{tmp_path}/control.db", MasterKey(bytes(32)))
        watching = Failing(None, Keyring(store, tmp_path))  # type: ignore[arg-type]
        with pytest.raises(asyncio.CancelledError):
            await watching.watch()
        await store.close()

    asyncio.run(work())
    assert looks == 3


def test_an_authority_is_taken_in_steps_that_may_be_cut_short(tmp_path: Path) -> None:
    folder = tmp_path / "ca"
    with pytest.raises(Error, match="there is no"):
        prepare(folder)
    first = ensure(folder, ["localhost"]).ca.read_text()
    assert trusted(folder) == first
    with pytest.raises(Error, match="entrepot storage new-authority"):
        take(folder)
    second = prepare(folder).read_text()
    with pytest.raises(Error, match="entrepot storage take-authority"):
        prepare(folder)
    both = trusted(folder)
    assert both == "".join(sorted((first, second)))
    assert not ensure(folder, ["localhost"]).renewed  # it is not in use yet
    # Killed when the key was there, and the certificate not yet.
    (folder / "before.pem").write_text(first)
    (folder / "next.key").replace(folder / "ca.key")
    with pytest.raises(Error, match="not the key of"):
        ensure(folder, ["localhost"])
    take(folder)
    assert trusted(folder) == both
    made = ensure(folder, ["localhost"])
    assert (made.renewed, made.ca.read_text()) == (True, second)
    assert not list(folder.glob("next.*"))
    third = prepare(folder).read_text()
    assert trusted(folder) == "".join(sorted((second, third)))


def test_a_gateway_believes_new_keys_only_under_one_that_it_believes(tmp_path: Path) -> None:
    signer, private = Ed25519PrivateKey.generate(), X25519PrivateKey.generate()
    ca = ensure(tmp_path / "ca", ["localhost"]).ca.read_text()
    known = Enrolled("https://localhost:1", "edge", "secret", signer.public_key().public_bytes_raw(), ca)
    write_private(tmp_path / "sealing.key", b64encode(private.private_bytes_raw()))
    write_private(tmp_path / "control.json", msgspec.json.encode(known))
    new = Trust(ca + ca, Ed25519PrivateKey.generate().public_key().public_bytes_raw())
    told = msgspec.json.encode(new)

    def sealed(message: bytes = told, **other: Any) -> bytes:
        how = {"to": private.public_key().public_bytes_raw(), "signer": signer, "gateway": "edge", "kind": "trust"}
        return seal(message, **(how | {"revision": Revision(1, 1)} | other))

    source = ControlSource(known, tmp_path)
    for wrong in (
        sealed(signer=Ed25519PrivateKey.generate()),
        sealed(gateway="another"),
        sealed(to=X25519PrivateKey.generate().public_key().public_bytes_raw()),
        sealed(kind="published"),
        sealed(b"{}"),
        sealed(b"\xff"),
        sealed(msgspec.json.encode(Trust("no certificate", new.verifier))),
        sealed(msgspec.json.encode(Trust("", new.verifier))),
        sealed(msgspec.json.encode(Trust(ca, b"short"))),
        sealed()[:-1],
        b"",
    ):
        with pytest.raises(Error):
            source._trusted(wrong)
        assert enrolled(tmp_path) == known
    with pytest.raises(Error, match="not what its seal says"):
        source._opened(sealed(), None)
    made = source._trusted(sealed())
    assert enrolled(tmp_path) == made
    assert (made.trust, made.before, made.secret) == (new, known.verifier, known.secret)
