"""A world edited under a running gateway: what is served changes, calls do not notice, mistakes change nothing."""

from __future__ import annotations

import http.client
import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from entrepot.sim.server import Sim, simulated
from entrepot.sim.settings import Settings
from harness import (
    BASE_PACK,
    Account,
    Fleet,
    Gateway,
    Upstream,
    World,
    ask,
    asked,
    body_of,
    call_bytes,
    opened,
    raw,
    to_end,
    until,
)


@dataclass
class Place:
    """`world` is what `gateway` serves; its folder is reached over the symbolic link `current`."""

    gateway: Gateway
    world: World
    sim: Sim
    link: Path

    def status(self, account: Account) -> int:
        return ask(self.gateway.data, body=body_of(), key=account.key).status

    def edit(self, *accounts: Account) -> None:
        """Put other accounts beside the first and wait until they are served."""
        before = self.gateway.readiness()["revision"]
        self.world.accounts[1:] = accounts
        self.world.write()
        self.gateway.revision(before + 1)


@pytest.fixture(scope="module")
def _place(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    home = tmp_path_factory.mktemp("reload")
    secret = home / "key2"
    secret.write_text("sk-from-a-file-0123456789\n")
    first = Account("first")
    with simulated() as sim:
        world = World(home / "v1", [Upstream("main", sim.base_url)], [first])
        world.write()
        link = home / "current"
        link.symlink_to("v1")
        with fleet.gateway(replace(world, folder=link), home / "gateway") as gateway:
            gateway.world = world
            yield Place(gateway, world, sim, link)


@pytest.fixture
def place(_place: Place) -> Place:
    _place.sim.use(Settings())
    return _place


@dataclass
class Load:
    """What callers that never stop have met so far."""

    statuses: list[int] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)


@contextmanager
def load(place: Place) -> Iterator[Load]:
    """Three clients call over kept connections, whole and streamed, until the block ends."""
    found, ended = Load(), threading.Event()

    def call(streams: bool) -> None:
        try:
            with opened(place.gateway.data) as connection:
                while not ended.is_set():
                    body = body_of(stream=streams, max_tokens=8)
                    answer = asked(connection, body=body, key=place.world.accounts[0].key)
                    found.statuses.append(answer.status)
                    assert not streams or answer.body.endswith(b"data: [DONE]\n\n")
        except (OSError, http.client.HTTPException, AssertionError) as failure:
            found.failures.append(failure)

    threads = [threading.Thread(target=call, args=(streams,)) for streams in (False, True, False)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def test_an_edit_under_load_fails_no_call_and_is_served_within_a_second(place: Place) -> None:
    """The measure is the best of four edits: what else runs on the machine is not what is judged."""
    took_s = []
    with load(place) as found:
        old = Account("old-0")
        place.edit(old)
        for number in range(1, 5):
            new = Account(f"new-{number}")
            assert (place.status(old), place.status(new)) == (200, 401)
            place.world.accounts[1:] = [new]
            started = time.monotonic()
            place.world.write()
            until(lambda: place.status(new) == 200, "the new key works")  # noqa: B023
            until(lambda: place.status(old) == 401, "the removed key is refused")  # noqa: B023
            took_s.append(time.monotonic() - started)
            old = new
    assert found.failures == []
    assert set(found.statuses) == {200}
    assert len(found.statuses) > 50
    print(f"an edit took {[round(s, 2) for s in took_s]} s; {len(found.statuses)} calls meanwhile")
    assert min(took_s) <= 1.0


def test_a_call_keeps_the_world_that_it_began_with(place: Place) -> None:
    leaving = Account("leaving")
    place.edit(leaving)
    place.sim.use(Settings(pace_ms=100, tokens=12))
    with raw(place.gateway.data, call_bytes(body_of(stream=True), leaving.key, more="connection: close\r\n")) as sock:
        first = sock.recv(100)
        assert first.startswith(b"HTTP/1.1 200 OK")
        place.edit()
        assert place.status(leaving) == 401
        assert b"data: [DONE]\n\n" in to_end(sock)


def test_an_invalid_edit_changes_nothing_and_is_told_of(place: Place) -> None:
    place.edit(Account("before"))
    revision = place.gateway.readiness()["revision"]
    world = place.world
    broken = replace(world, accounts=[*world.accounts, replace(Account("broken"), more='residency = ["moon"]\nx = 1')])
    logged = len(place.gateway.events)
    broken.write()
    problem = until(lambda: place.gateway.readiness()["problem"], "the mistake is told")
    assert "world.toml" in problem
    assert "moon" in problem
    assert "(and 1 more)" in problem
    readiness = place.gateway.readiness()
    assert (readiness["ready"], readiness["revision"]) == (True, revision)
    assert place.gateway.metric("entrepot_world_invalid") == 1
    lines = place.gateway.events[logged:]
    assert {(line["level"], line["event"]) for line in lines} == {("error", "world is invalid; the one before stays")}
    assert place.status(Account("before")) == 200
    assert place.status(Account("broken")) == 401

    place.edit(Account("after"))
    assert place.gateway.readiness()["problem"] is None
    assert place.gateway.metric("entrepot_world_invalid") == 0
    assert (place.status(Account("after")), place.status(Account("before"))) == (200, 401)


@pytest.mark.parametrize("text", ["[[account", "\x00", "[gateway]\nlisten = 7\n"])
def test_files_that_are_no_world(place: Place, text: str) -> None:
    place.edit(Account("before"))
    (place.world.folder / "world.toml").write_text(text)
    until(lambda: place.gateway.readiness()["problem"], "the mistake is told")
    assert place.status(Account("before")) == 200


def test_a_pack_that_is_missing_at_first(place: Place) -> None:
    """The file that names it comes first, the pack later, in a folder that no world file is in."""
    place.edit()
    revision = place.gateway.readiness()["revision"]
    text = place.world.text().replace('"packs/base.toml"', '"packs/base.toml", "more/late.toml"')
    (place.world.folder / "world.toml").write_text(text)
    assert "late.toml" in until(lambda: place.gateway.readiness()["problem"], "it is missed")
    (place.world.folder / "more").mkdir()
    pack = BASE_PACK.replace("TEST-", "LATE-").replace("test-base", "late")
    (place.world.folder / "more" / "late.toml").write_text(pack)
    place.gateway.revision(revision + 1)
    assert place.gateway.readiness()["problem"] is None


def test_a_rule_edited_in_a_pack(place: Place) -> None:
    place.edit()
    first = place.world.accounts[0]
    revision = place.gateway.readiness()["revision"]
    pack = place.world.folder / "packs" / "base.toml"
    pack.write_text(BASE_PACK.replace('org.kyc = "approved"', 'org.kyc = "expired"'))
    place.gateway.revision(revision + 1)
    assert place.status(first) == 403
    place.edit()
    assert place.status(first) == 200


def test_swapping_the_link_is_one_edit(place: Place) -> None:
    place.edit(Account("linked-1"))
    revision = place.gateway.readiness()["revision"]
    second = replace(
        place.world, folder=place.link.parent / "v2", accounts=[place.world.accounts[0], Account("linked-2")]
    )
    second.write()
    (second.folder / "more.toml").write_text('[[provider]]\nname = "another"\n')
    other = place.link.with_name("next")
    other.symlink_to("v2")
    other.replace(place.link)
    place.gateway.revision(revision + 1)
    assert (place.status(Account("linked-1")), place.status(Account("linked-2"))) == (401, 200)
    other.symlink_to("v1")
    other.replace(place.link)
    place.gateway.revision(revision + 2)
    assert (place.status(Account("linked-1")), place.status(Account("linked-2"))) == (200, 401)
    assert place.gateway.readiness()["revision"] == revision + 2


def test_a_link_that_leads_nowhere_for_a_while(place: Place) -> None:
    place.edit(Account("stays"))
    place.link.unlink()
    time.sleep(0.5)
    assert place.status(Account("stays")) == 200
    place.link.symlink_to("v1")
    place.edit()


def test_sighup_reads_again_what_is_not_watched(place: Place) -> None:
    secret = place.link.parent / "secret"
    secret.write_text("sk-from-a-file-0123456789\n")
    holder = Account("holder", more="")
    place.edit(holder)
    text = place.world.text().replace(f'key1 = "sha256:{_digest(holder)}"', f'key1 = "file:{secret}"')
    revision = place.gateway.readiness()["revision"]
    (place.world.folder / "world.toml").write_text(text)
    place.gateway.revision(revision + 1)

    def status(key: str) -> int:
        return ask(place.gateway.data, body=body_of(), key=key).status

    assert status("sk-from-a-file-0123456789") == 200
    secret.write_text("sk-rotated-0123456789abcdef\n")
    place.gateway.signal(signal.SIGHUP)
    place.gateway.revision(revision + 2)
    assert (status("sk-rotated-0123456789abcdef"), status("sk-from-a-file-0123456789")) == (200, 401)
    secret.unlink()
    place.gateway.signal(signal.SIGHUP)
    assert "secret" in until(lambda: place.gateway.readiness()["problem"], "the missing secret is told")
    assert status("sk-rotated-0123456789abcdef") == 200


def test_an_upstream_s_credential_that_cannot_be_sent(place: Place) -> None:
    place.edit()
    secret = place.link.parent / "credential"
    secret.write_text("two\nlines")
    before = place.world.upstreams[0]
    place.world.upstreams[0] = replace(before, credential=f"file:{secret}")
    place.world.write()
    problem = until(lambda: place.gateway.readiness()["problem"], "it is told")
    assert str(secret) in problem
    assert "lines" not in problem
    assert place.status(place.world.accounts[0]) == 200
    place.world.upstreams[0] = before


def test_reloads_that_come_thick_and_fast_end_with_the_last(place: Place) -> None:
    with load(place) as found:
        for number in range(5):
            place.world.accounts[1:] = [Account(f"fast-{number}")]
            place.world.write()
            place.gateway.signal(signal.SIGHUP)
            time.sleep(0.03)
        until(lambda: place.status(Account("fast-4")) == 200, "the last edit is served")
        time.sleep(0.5)
    assert found.failures == []
    assert set(found.statuses) == {200}
    assert [place.status(Account(f"fast-{number}")) for number in range(5)] == [401, 401, 401, 401, 200]
    assert json.dumps(place.gateway.readiness()["problem"]) == "null"


def test_an_upstream_that_moves(place: Place) -> None:
    place.edit()
    revision = place.gateway.readiness()["revision"]
    with simulated(Settings()) as other:
        before = place.world.upstreams[0]
        place.world.upstreams[0] = replace(before, url=other.base_url)
        place.world.write()
        place.gateway.revision(revision + 1)
        assert place.status(place.world.accounts[0]) == 200
        assert other.counters.requests == 1
        place.world.upstreams[0] = before
        place.world.write()
        place.gateway.revision(revision + 2)
        assert place.status(place.world.accounts[0]) == 200


def _digest(account: Account) -> str:
    return account.toml(1).partition('key1 = "sha256:')[2][:64]
