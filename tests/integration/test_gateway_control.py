"""A gateway's source that is a control plane: enrolment, changes, and all that can go wrong on the way."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trustme
import uvloop

from control_plane import ControlPlane
from entrepot.config import Config
from entrepot.errors import Error
from entrepot.gateway import control
from entrepot.gateway.control import ControlSource
from entrepot.gateway.enrolment import CONTROL, SEALING, SNAPSHOT, enrol, enrolled, read_token
from entrepot.gateway.kept import Kept
from entrepot.gateway.source import Source
from entrepot.snapshot import Delta, Published, Revision, applied, publish_files
from entrepot.snapshot.sealed import Envelope
from harness import BASE_PACK, Account, Upstream, World

NAME = "gw-1"


def world(revision: Revision, *names: str, upstream: str = "http://u.example") -> Published:
    accounts = [Account(name) for name in names or ("a",)]
    text = World(Path(), [Upstream("u", upstream)], accounts).text()
    files = {"world.toml": text.encode(), "packs/base.toml": BASE_PACK.encode()}
    return publish_files(files, Config(Path(), {"UPSTREAM_KEY": "the-operators-key"}), revision)


def at(n: int, epoch: int = 1) -> Revision:
    return Revision(epoch, n)


@pytest.fixture
def plane() -> Iterator[ControlPlane]:
    plane = ControlPlane()
    plane.publish(world(at(1)))
    plane.start()
    yield plane
    if plane.running:
        plane.kill()


@pytest.fixture
def data(plane: ControlPlane, tmp_path: Path) -> Path:
    asyncio.run(enrol(plane.url, read_token(plane.token(NAME)), tmp_path))
    return tmp_path


class Parent:
    """What a gateway's parent does with a source, but for the compiling: `refuses` says what would not compile."""

    def __init__(self, source: ControlSource) -> None:
        self.source = source
        self.runs: Published | None = None
        self.taken: list[Published | Delta] = []
        self.refuses: Callable[[Published], bool] = lambda _: False

    async def start(self) -> None:
        self._run(await self.source.first())

    async def follow(self) -> None:
        async for change in self.source.changes():
            self.taken.append(change)
            assert self.runs is not None
            after = change if isinstance(change, Published) else applied(self.runs, change)
            if self.refuses(after):
                self.source.running(self.runs.revision, True)
            else:
                self._run(after)

    def _run(self, published: Published) -> None:
        self.runs = published
        self.source.running(published.revision, True)

    @property
    def at(self) -> Revision:
        assert self.runs is not None
        return self.runs.revision

    @property
    def names(self) -> set[str]:
        assert self.runs is not None
        return {account.name for account in self.runs.world.accounts}


@asynccontextmanager
async def parent(data: Path) -> AsyncIterator[Parent]:
    made = enrolled(data)
    assert made is not None
    source = ControlSource(made, data)
    _: Source = source
    running = Parent(source)
    await running.start()
    following = asyncio.create_task(running.follow())
    try:
        yield running
    finally:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following
        await source.close()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110 - some of it happens in the stand-in's threads
            await asyncio.sleep(0.01)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await test()

    # As the gateway: asyncio's own loop, whose TLS is cancelled before it began, leaves a transport unclosed.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())


class TestEnrolment:
    def test_leaves_files_that_only_their_owner_reads(self, data: Path) -> None:
        for name in (CONTROL, SEALING):
            assert stat.S_IMODE((data / name).stat().st_mode) == 0o600
        kept = json.loads((data / CONTROL).read_bytes())
        assert set(kept) == {"url", "gateway", "secret", "verifier", "ca", "token", "before"}
        assert "secret" not in repr(enrolled(data))

    def test_works_once(self, plane: ControlPlane, tmp_path: Path) -> None:
        token = read_token(plane.token(NAME))
        asyncio.run(enrol(plane.url, token, tmp_path))
        before = (tmp_path / CONTROL).read_bytes(), (tmp_path / SEALING).read_bytes()
        with pytest.raises(Error, match="refuses to enrol `gw-1`: the token is unknown, used or expired"):
            asyncio.run(enrol(plane.url, token, tmp_path))
        assert before == ((tmp_path / CONTROL).read_bytes(), (tmp_path / SEALING).read_bytes())

    def test_tells_nothing_to_another_authority(self, plane: ControlPlane, tmp_path: Path) -> None:
        token = plane.token(NAME)
        plane.authority = trustme.CA()
        with pytest.raises(Error, match="its certificate authority does not match"):
            asyncio.run(enrol(plane.url, read_token(token), tmp_path))
        assert token in plane.tokens
        assert not list(tmp_path.iterdir())

    def test_believes_no_certificate_but_that_authority_s(self, plane: ControlPlane, tmp_path: Path) -> None:
        """Who stands between may hand on the true authority's certificate, and has no key of it."""
        token, true = plane.token(NAME), plane.authority
        plane.kill()
        plane.authority = trustme.CA()
        plane.start()
        plane.authority = true
        with pytest.raises(Error, match=r"cannot be reached: TLS with .* the certificate is not accepted"):
            asyncio.run(enrol(plane.url, read_token(token), tmp_path))
        assert token in plane.tokens

    def test_of_nobody_there(self, plane: ControlPlane, tmp_path: Path) -> None:
        token = read_token(plane.token(NAME))
        plane.kill()
        with pytest.raises(Error, match="the control plane cannot be reached: connect to"):
            asyncio.run(enrol(plane.url, token, tmp_path))

    @pytest.mark.parametrize("text", ["", "enrol-", "enrol-a-b-c", "enrol-gw-" + "0" * 32 + "-" + "0" * 31, "sk-1"])
    def test_of_what_is_no_token(self, text: str) -> None:
        with pytest.raises(Error, match="not an enrolment token") as raised:
            read_token(text)
        assert not text or text not in raised.value.message.replace("--enrol", "")

    @pytest.mark.parametrize("url", ["http://h:1", "https://", "https://h:x", "https://u:p@h", "https://h/x", "h:1"])
    def test_at_what_is_no_control_plane(self, url: str, plane: ControlPlane, tmp_path: Path) -> None:
        with pytest.raises(Error, match=r"is not the address of a control plane"):
            asyncio.run(enrol(url, read_token(plane.token(NAME)), tmp_path))

    def test_a_name_may_have_hyphens(self, plane: ControlPlane) -> None:
        assert read_token(plane.token("gw-1.east-2")).gateway == "gw-1.east-2"


class TestFollowing:
    def test_the_first_is_whole_and_changes_are_small(self, plane: ControlPlane, data: Path) -> None:
        async def test() -> None:
            async with parent(data) as gateway:
                assert (gateway.at, gateway.names) == (at(1), {"a"})
                plane.publish(world(at(2), "a", "b"))
                await until(lambda: gateway.at == at(2))
                plane.publish(world(at(3), "b"))
                await until(lambda: gateway.at == at(3))
                assert gateway.names == {"b"}
                assert [type(each) for each in gateway.taken] == [Delta, Delta]
                assert gateway.runs is not None
                assert gateway.runs.world == world(at(3), "b").world
                await until(lambda: plane.asked[-1] == ("1.3", "true"))
                assert gateway.source.problem is None

        run(test)
        assert plane.asked[0] == (None, "false")

    def test_the_whole_comes_when_more_than_clients_changed(self, plane: ControlPlane, data: Path) -> None:
        async def test() -> None:
            async with parent(data) as gateway:
                plane.publish(world(at(2), upstream="http://other.example"))
                await until(lambda: gateway.at == at(2))
                assert [type(each) for each in gateway.taken] == [Published]

        run(test)

    def test_readiness_is_told_at_once(self, plane: ControlPlane, data: Path) -> None:
        async def test() -> None:
            async with parent(data) as gateway:
                await until(lambda: plane.asked[-1] == ("1.1", "true"))
                gateway.source.running(at(1), False)
                await until(lambda: plane.asked[-1] == ("1.1", "false"))

        run(test)

    def test_what_could_not_be_taken_over_is_offered_as_a_whole_and_then_mended(
        self, plane: ControlPlane, data: Path
    ) -> None:
        async def test() -> None:
            async with parent(data) as gateway:
                await until(lambda: plane.asked[-1] == ("1.1", "true"))
                gateway.refuses = lambda published: published.revision == at(2)
                plane.publish(world(at(2), "a", "b"))
                await until(lambda: Published in {type(each) for each in gateway.taken})
                assert gateway.at == at(1)
                plane.publish(world(at(3), "a", "c"))
                await until(lambda: gateway.at == at(3))
                assert gateway.names == {"a", "c"}

        run(test)
        assert len(plane.asked) < 30

    def test_a_control_plane_that_does_not_wait_is_not_hammered(self, plane: ControlPlane, data: Path) -> None:
        async def test() -> None:
            async with parent(data):
                await until(lambda: plane.asked[-1] == ("1.1", "true"))
                plane.answer = lambda *_: None  # type: ignore[method-assign]
                plane.publish(world(at(2)))
                await asyncio.sleep(1.5)

        run(test)
        assert len(plane.asked) <= 5

    @pytest.mark.parametrize("dead", [False, True])
    def test_a_look_hands_on_the_whole_again(self, plane: ControlPlane, data: Path, dead: bool) -> None:
        async def test() -> None:
            async with parent(data) as gateway:
                plane.publish(world(at(2), "a", "b"))
                await until(lambda: gateway.at == at(2))
                if dead:
                    plane.kill()
                    await until(lambda: gateway.source.problem is not None)
                taken = len(gateway.taken)
                gateway.source.look()
                await until(lambda: len(gateway.taken) > taken)
                assert (type(gateway.taken[-1]), gateway.at, gateway.names) == (Published, at(2), {"a", "b"})

        run(test)


class TestStaticStability:
    def test_a_dead_control_plane_is_missed_by_nobody_and_found_again(self, plane: ControlPlane, data: Path) -> None:
        async def test() -> None:
            async with parent(data) as gateway:
                await until(lambda: plane.asked[-1] == ("1.1", "true"))
                plane.kill()
                await until(lambda: "cannot be reached" in (gateway.source.problem or ""))
                assert gateway.at == at(1)
                plane.publish(world(at(2), "a", "b"))
                plane.start()
                await until(lambda: gateway.at == at(2))
                assert gateway.source.problem is None

        run(test)

    @pytest.mark.parametrize("dead", ["killed", "hangs"])
    def test_a_restart_begins_with_what_ran(
        self, plane: ControlPlane, data: Path, dead: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(control, "FRESH_S", 0.3)

        async def before() -> None:
            async with parent(data) as gateway:
                for n in (2, 3, 4):
                    plane.publish(world(at(n), *"abcd"[:n]))
                    await until(lambda n=n: gateway.at == at(n))  # type: ignore[misc]

        run(before)
        assert stat.S_IMODE((data / SNAPSHOT).stat().st_mode) == 0o600
        assert b"the-operators-key" not in (data / SNAPSHOT).read_bytes()
        plane.kill()
        if dead == "hangs":
            sock = socket.create_server(("127.0.0.1", plane.port))
        try:

            async def after() -> None:
                async with parent(data) as gateway:
                    assert (gateway.at, gateway.names) == (at(4), set("abcd"))
                    assert gateway.source.problem is not None

            run(after)
        finally:
            if dead == "hangs":
                sock.close()

    def test_a_start_takes_what_is_newer_at_once(self, plane: ControlPlane, data: Path) -> None:
        async def test(n: int) -> None:
            async with parent(data) as gateway:
                assert gateway.at == at(n)
                assert not gateway.taken

        run(lambda: test(1))
        plane.publish(world(at(2), "a", "b"))
        run(lambda: test(2))
        plane.publish(world(at(3), upstream="http://other.example"))
        run(lambda: test(3))
        plane.kill()
        run(lambda: test(3))

    def test_without_either_it_says_so(self, plane: ControlPlane, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(control, "FIRST_S", 0.5)
        plane.kill()

        async def test() -> None:
            async with parent(data):
                pytest.fail("there is nothing to start from")

        with pytest.raises(Error, match=r"cannot be reached: .*, and there is no publication on disk to start from"):
            run(test)

    def test_a_torn_or_altered_change_on_disk_ends_what_is_believed(self, plane: ControlPlane, data: Path) -> None:
        async def before() -> None:
            async with parent(data) as gateway:
                for n in (2, 3):
                    plane.publish(world(at(n), *"abc"[:n]))
                    await until(lambda n=n: gateway.at == at(n))  # type: ignore[misc]

        run(before)
        path = data / SNAPSHOT
        whole = path.read_bytes()
        plane.kill()

        async def starts_at(n: int) -> None:
            async with parent(data) as gateway:
                assert gateway.at == at(n)

        for altered in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), whole + b"\0\0"):
            path.write_bytes(altered)
            run(lambda altered=altered: starts_at(3 if altered == whole + b"\0\0" else 2))  # type: ignore[misc]
        plane.start()
        path.write_bytes(whole[:-1])
        plane.publish(world(at(4), "d"))
        run(lambda: starts_at(4))
        plane.kill()
        run(lambda: starts_at(4))

    def test_many_changes_give_way_to_a_whole(
        self, plane: ControlPlane, data: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("entrepot.gateway.kept.MOST_CHANGES", 2)
        kept = Kept(data / SNAPSHOT)

        async def test() -> None:
            async with parent(data) as gateway:
                for n in range(2, 9):
                    plane.publish(world(at(n), *"abcdefgh"[:n]))
                    await until(lambda n=n: gateway.at == at(n))  # type: ignore[misc]
                    await until(lambda n=n: (str(at(n)), "true") in plane.asked)  # type: ignore[misc]
                assert {type(each) for each in gateway.taken} == {Delta}

        run(test)
        assert 1 <= len(kept.read()) <= 4
        assert not kept.grown
        plane.kill()

        async def after() -> None:
            async with parent(data) as gateway:
                assert gateway.names == set("abcdefgh")

        run(after)


def changed(data: bytes, **fields: object) -> bytes:
    envelope = msgspec.msgpack.decode(data, type=Envelope)
    return msgspec.msgpack.encode(msgspec.structs.replace(envelope, **fields))


class TestRefused:
    @pytest.mark.parametrize(
        ("alter", "why"),
        [
            (lambda data: data[:-1], "not in the form"),
            (lambda data: changed(data, signature=bytes(64)), "its signature is not of the control plane"),
            (lambda data: changed(data, n=99), "its signature is not of the control plane"),
            (lambda _: b"<html>", "not in the form"),
        ],
    )
    def test_a_tampered_answer_changes_nothing(
        self, plane: ControlPlane, data: Path, alter: Callable[[bytes], bytes], why: str
    ) -> None:
        async def test() -> None:
            async with parent(data) as gateway:
                await until(lambda: plane.asked[-1] == ("1.1", "true"))
                plane.alter = alter
                plane.publish(world(at(2), "a", "b"))
                await until(lambda: why in (gateway.source.problem or ""))
                assert (gateway.at, gateway.taken) == (at(1), [])
                plane.alter = None
                await until(lambda: gateway.at == at(2))
                assert gateway.source.problem is None

        run(test)

    def test_a_tampered_first_answer_is_no_start(self, plane: ControlPlane, data: Path) -> None:
        plane.alter = lambda sealed: changed(sealed, signature=bytes(64))

        async def test() -> None:
            async with parent(data):
                pytest.fail("that is not signed")

        with pytest.raises(Error, match="its signature is not of the control plane"):
            run(test)

    @pytest.mark.parametrize("older", [at(1), at(900, epoch=0)])
    def test_a_rollback_is_refused_and_a_new_epoch_is_not(
        self, plane: ControlPlane, data: Path, older: Revision
    ) -> None:
        async def test() -> None:
            plane.publish(world(at(2), "a", "b"))
            async with parent(data) as gateway:
                await until(lambda: plane.asked[-1] == ("1.2", "true"))
                plane.published = []
                plane.publish(world(older, "z"))
                await until(lambda: f"revision {older} is older than 1.2" in (gateway.source.problem or ""))
                assert (gateway.at, gateway.taken) == (at(2), [])
                plane.publish(world(at(1, epoch=2), "z"))
                await until(lambda: gateway.at == at(1, epoch=2))
                assert gateway.names == {"z"}

        run(test)

    def test_a_rollback_over_a_restart_is_refused(self, plane: ControlPlane, data: Path) -> None:
        async def test() -> None:
            async with parent(data) as gateway:
                assert gateway.at == at(2)

        plane.publish(world(at(2), "a", "b"))
        run(test)
        plane.published = []
        plane.publish(world(at(1), "z"))
        run(test)

    @pytest.mark.parametrize(
        ("status", "why"), [(401, "no longer knows the gateway `gw-1`"), (503, r"answers: broken on purpose \(503")]
    )
    def test_errors_are_told_and_change_nothing(
        self, plane: ControlPlane, data: Path, status: int, why: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(control, "FIRST_S", 0.5)
        plane.status = status

        async def test() -> None:
            async with parent(data):
                pytest.fail("there is nothing to start from")

        with pytest.raises(Error, match=why):
            run(test)
