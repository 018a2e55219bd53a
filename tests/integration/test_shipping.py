"""Ledgers on their way to a control plane: cut anywhere, taken in once, and nothing but what is proved."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
import trustme

from entrepot.errors import Error
from entrepot.gateway import shipping as gateway
from entrepot.gateway.enrolment import Enrolled
from entrepot.gateway.shipping import Shipper
from entrepot.ledger.files import Files
from entrepot.ledger.keys import find_signer
from entrepot.ledger.log import Batch
from entrepot.ledger.shipped import Forked, Misplaced, Shipped
from entrepot.ledger.verify import CHECKPOINT, LIST, PRIVATE, Key, Unproved, check, find_key, segment_name
from entrepot.ledger.writer import open_writer
from entrepot.management import enrol, shipping
from entrepot.projections import usage as sums
from entrepot.projections.follow import Logs
from entrepot.projections.follower import Follower, usage_of
from entrepot.storage import EVERYTHING
from entrepot.storage.projected import Projected
from ledgers import NOW_MS, decisions, outcome
from planes import Plane, plane

NAME, LOG = "edge", "edge_w0_2026-11_0"


class Cutting:
    """Between a gateway and its control plane: after so many bytes in either direction, the line is cut."""

    def __init__(self, port: int, seed: int) -> None:
        self._port = port
        self._random = random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.cuts = 0

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._between, args=(near,), daemon=True).start()

    def _between(self, near: socket.socket) -> None:
        left = [int(10 ** self._random.uniform(3.4, 5.5))]
        with near, socket.create_connection(("127.0.0.1", self._port)) as far:
            back = threading.Thread(target=self._carry, args=(far, near, left), daemon=True)
            back.start()
            self._carry(near, far, left)
            back.join()

    def _carry(self, one: socket.socket, other: socket.socket, left: list[int]) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65_536):
                other.sendall(data[: max(left[0], 0)])
                left[0] -= len(data)
                if left[0] <= 0:
                    self.cuts += 1
                    break
        for each in (one, other):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Plane, Path, str]]:
    """A control plane over TLS, its folder, and the certificate authority."""
    folder = tmp_path_factory.mktemp("shipping")
    authority = trustme.CA()
    pair = authority.issue_cert("127.0.0.1")
    names = folder / "server.pem", folder / "server.key"
    pair.cert_chain_pems[0].write_to_path(names[0])
    pair.private_key_pem.write_to_path(names[1])
    (folder / "ca").mkdir()
    authority.cert_pem.write_to_path(folder / "ca" / "ca.pem")
    context = ssl.create_default_context(cafile=folder / "ca" / "ca.pem")
    with plane(folder, tls=(str(names[0]), str(names[1])), ca=context) as made:
        yield made, folder, authority.cert_pem.bytes().decode()


def enrolled(served: tuple[Plane, Path, str], name: str, log_name: str = NAME) -> Enrolled:
    made, _, ca = served
    at = f"/providers/Entrepot.Access/gateways/{name}"
    answer = made.of("admin").put(at, json={"properties": {"territory": "SE", "logName": log_name}})
    assert answer.status_code in {200, 201}, answer.text
    token, _ = made.run(enrol.make_token(made.control, enrol.Actor("t", "t", "", ""), name))
    granted = made.run(enrol.enrol(made.control, token, bytes(32), "test", ""))
    return Enrolled(made.url, name, str(granted["secret"]), b"", ca)


def drop(served: tuple[Plane, Path, str], name: str) -> None:
    assert served[0].of("admin").delete(f"/providers/Entrepot.Access/gateways/{name}").status_code in {200, 204}


def grow(data: Path, *counts: int, segment_bytes: int = 40_000) -> None:
    """What a worker writes in a life: decisions, half of them with outcomes, in several segments."""
    files = Files()
    writer = open_writer(data, f"{NAME}/w0", find_signer(data, NAME, files), files, lambda: NOW_MS)
    writer.log.segment_bytes = segment_bytes
    for count in counts:
        first = writer.log.size
        batch = decisions(first, count)
        writer.append(Batch(batch.entries, batch.privates))
        ends = [outcome(f"{LOG.replace('_', '/')}/{number}") for number in range(first, first + count, 2)]
        writer.append(Batch(ends, [None] * len(ends)))
        writer.log.checkpoint()
    writer.close()


def key_of(data: Path) -> Key:
    return find_key(str(data / "keys" / f"{NAME}.vkey"))


def ship(shipper: Shipper) -> None:
    asyncio.run(_ship(shipper))


async def _ship(shipper: Shipper) -> None:
    try:
        await shipper.ship()
    finally:
        await shipper._remote.close()


def same(here: Path, there: Path) -> None:
    """Byte for byte, but for room that was made ahead; and no personal data."""
    for path in (here / "ledger").rglob("*"):
        if path.is_file() and PRIVATE not in path.parts and not path.name.startswith("."):
            copy = there / path.relative_to(here / "ledger")
            assert copy.read_bytes() == path.read_bytes().rstrip(b"\0"), path
    assert not [path for path in there.rglob("*") if PRIVATE in path.parts or path.suffix == ".private"]


def test_cut_anywhere_it_arrives_once(
    served: tuple[Plane, Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, folder, _ = served
    monkeypatch.setattr(gateway, "POLL_S", 0.01)
    monkeypatch.setattr(gateway, "RETRY_LAST_S", 0.02)
    monkeypatch.setattr(gateway, "PIECE", 30_000)
    known, data = enrolled(served, "edge-1"), tmp_path / "data"
    copy = folder / "shipped" / "edge-1" / "ledger"
    with Cutting(int(made.url.rpartition(":")[2]), 7) as line:
        url = f"https://127.0.0.1:{line.port}"

        async def run() -> None:
            for round_ in range(3):
                grow(data, 60, 40)
                shipper = Shipper(known, data, url)  # as after a restart
                task = asyncio.create_task(shipper.run())
                wanted = (data / "ledger" / LIST).read_bytes(), (data / "ledger" / LOG / CHECKPOINT).read_bytes()
                async with asyncio.timeout(60):
                    while True:
                        await asyncio.sleep(0.02)
                        with contextlib.suppress(FileNotFoundError):
                            if ((copy / LIST).read_bytes(), (copy / LOG / CHECKPOINT).read_bytes()) == wanted:
                                break
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                if round_ == 1:
                    made.run(_forget(made))  # as if it were started anew

        asyncio.run(run())
    assert line.cuts > 10
    same(data, copy)
    key = key_of(data)
    assert not check(copy, key).findings()
    assert served[0].control.publisher.gateways["edge-1"].ledger_keys == (str(key),)
    _followed(served, data)
    drop(served, "edge-1")


async def _forget(made: Plane) -> None:
    _shipments(made)._held.clear()


def _shipments(made: Plane) -> shipping.Shipments:
    found = made.app.state.shipments
    assert isinstance(found, shipping.Shipments)
    return found


def _followed(served: tuple[Plane, Path, str], data: Path) -> None:
    """The sums over the copy are those over the gateway's own folder."""
    made, folder, _ = served

    async def work() -> None:
        projected = Projected(made.control.store)
        follower = Follower(projected, shipping.followed(folder, made.control.publisher))
        assert await follower.follow() > 400
        assert not follower.problems
        found = sums.Usage()
        for read in Logs(data / "ledger"):
            found.take(read)
        found.finish()
        assert await usage_of(projected, EVERYTHING) == found.cells

    made.run(work())


def test_another_history_is_refused(
    served: tuple[Plane, Path, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, folder, _ = served
    known, data = enrolled(served, "edge-2"), tmp_path / "data"
    copy = folder / "shipped" / "edge-2" / "ledger"
    grow(data, 20)
    shutil.copytree(data, tmp_path / "early")
    grow(data, 20)
    ship(Shipper(known, data, known.url))
    before = (copy / LOG / CHECKPOINT).read_bytes()

    # An old copy of the folder says so itself, and loses nothing of what is there.
    with pytest.raises(Error, match="fewer than the"):
        ship(Shipper(known, tmp_path / "early", known.url))
    # Grown past it, what it adds does not have the root that it signs.
    grow(tmp_path / "early", 30, 30)
    for _ in range(2):
        with pytest.raises(Error, match="other bytes are shipped"):
            ship(Shipper(known, tmp_path / "early", known.url))
    assert "a gateway ships what does not prove true" in caplog.text
    assert (copy / LOG / CHECKPOINT).read_bytes() == before
    assert not check(copy, key_of(data)).findings()

    # The true one goes on.
    grow(data, 5)
    ship(Shipper(known, data, known.url))
    same(data, copy)

    # A new key of the same name is no key of this gateway.
    grow(tmp_path / "lost", 3)
    with pytest.raises(Error, match="signed by another key"):
        ship(Shipper(known, tmp_path / "lost", known.url))
    stranger = enrolled(served, "edge-3", "edge-3")
    with pytest.raises(Error, match="`logName` is"):
        ship(Shipper(stranger, tmp_path / "lost", known.url))
    drop(served, "edge-2")
    drop(served, "edge-3")


def test_a_stranger_ships_nothing(served: tuple[Plane, Path, str], tmp_path: Path) -> None:
    grow(tmp_path / "data", 3)
    nobody = Enrolled(served[0].url, "edge-9", "wrong", b"", served[2])
    with pytest.raises(Error, match="401"):
        ship(Shipper(nobody, tmp_path / "data", nobody.url))
    assert not (served[1] / "shipped" / "edge-9").exists()


def copied(data: Path, there: Path) -> Shipped:
    """As the routes do it, by hand."""
    held = Shipped.open(there / LOG, key_of(data))
    folder = data / "ledger" / LOG
    for path in sorted(folder.glob("*.entries")):
        held.add(int(path.stem), 0, path.read_bytes().rstrip(b"\0"))
    return held


def test_what_a_crash_tore_is_cut_off(tmp_path: Path) -> None:
    data, there = tmp_path / "data", tmp_path / "there"
    grow(data, 30)
    folder = data / "ledger" / LOG
    held = copied(data, there)
    held.sign((folder / CHECKPOINT).read_bytes())
    signed = held.position()
    last = there / LOG / segment_name(signed["first"])
    with last.open("ab") as file:
        file.write(b"Ep.\0\0\0\x09torn")
    assert Shipped.open(there / LOG, key_of(data)).position() == signed
    assert last.stat().st_size == signed["offset"]
    # Whole frames that nothing signs yet stay; behind a hole nothing does.
    grow(data, 200, 10)
    held = copied(data, there)
    assert held.position()["entries"] > signed["entries"]
    assert Shipped.open(there / LOG, key_of(data)).position() == held.position()
    (there / LOG / segment_name(held.position()["first"])).unlink()
    again = Shipped.open(there / LOG, key_of(data))
    assert signed["entries"] <= again.position()["entries"] < held.position()["entries"]
    copied(data, there).sign((folder / CHECKPOINT).read_bytes())
    # What is signed and gone is no copy any more.
    first = there / LOG / segment_name(0)
    first.write_bytes(first.read_bytes()[:-1])
    with pytest.raises(Unproved, match="the copy here is damaged"):
        Shipped.open(there / LOG, key_of(data))


def test_what_is_no_piece_of_the_log_is_refused(tmp_path: Path) -> None:
    data, there = tmp_path / "data", tmp_path / "there"
    grow(data, 30)
    held = copied(data, there)
    at, folder = held.position(), data / "ledger" / LOG
    segment = (folder / segment_name(0)).read_bytes().rstrip(b"\0")
    for first, offset, piece, wrong in (
        (0, at["offset"] + 1, b"x", Misplaced),
        (0, at["offset"], b"Ep.\0\0\0\x02\0\0\0\0\0{}", Unproved),
        (0, at["offset"], segment[:100], Unproved),
        (0, 0, segment[:90] + b"!", Forked),
        (at["entries"], 0, segment, Unproved),
        (at["entries"] + 1, 0, segment, Misplaced),
    ):
        with pytest.raises(wrong):
            held.add(first, offset, piece)
        assert held.position() == at
    held.add(0, 50, segment[50:90])
    assert held.position() == at
    note = (folder / CHECKPOINT).read_bytes()
    with pytest.raises(Unproved):
        held.sign(note.replace(b"edge/w0", b"edge/w1", 1))
    held.sign(note)
    held.sign(note)
    assert held.position() == at
